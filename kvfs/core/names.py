"""Names: the total bijection between keys and paths, and between namespace titles and directory names.

The rule for one component of a key (the text between separators):

    inside it        NUL → %00    / → %2F (only where it is no separator)    % before 00, 2F or 25 → %25
    the whole of it  empty → %    . → %2E    .. → %2E%2E    a reserved .name → %2Ename
    looks like one   %, %2E, %2E%2E, %2Ename, %self: the first % → %25;    ends in %+: that % → %25
    over 255 bytes   cut at character boundaries into directories named `<piece>%+` and a last `<piece>`;
                     each but the last is the longest piece whose own name has at most 253 bytes

so that decoding is one pass over the tokens %00 %2F %25 once the whole-name cases are out of the way.
Escapes are upper case: `%2f` is ordinary text. `%self` is the value of key `a` when keys `a/…` exist too.
Keys are text without surrogates (UTF-8 can hold them); whoever reads the network sees to that.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final

from msgspec import Struct

from kvfs.core.errors import InvalidError, NameNotTextError, NameTooLongError
from kvfs.core.limits import FORBIDDEN_KEYS, KEY_BYTES
from kvfs.core.model import Key, Namespace

NAME_BYTES: Final = 255  # NAME_MAX of Linux
SELF: Final = "%self"  # in directory `a/`: the value of key `a`
CHUNK: Final = "%+"  # how a directory that holds the rest of a long component ends
CONTROL: Final = ".kvfs"  # the hidden directory at the root of a mount

_CHUNK_BYTES = NAME_BYTES - len(CHUNK)
_CHUNK_LEAST = _CHUNK_BYTES + 1 - 4  # a character more adds at most 4 bytes to a name
_PLAIN_CHARS = NAME_BYTES // 4  # that many characters fit whatever they are
_SHORT_KEY = KEY_BYTES // 4 - 1  # a key of fewer characters, and the separator, fits whatever they are

_ESCAPED = re.compile(r"\0|/|%(?=00|2F|25)")
_TOKEN = re.compile(r"%00|%2F|%25")
_ESCAPE = {"\0": "%00", "/": "%2F", "%": "%25"}
_UNESCAPE = {token: text for text, token in _ESCAPE.items()}


class DirRef(Struct, frozen=True, gc=False):
    """A directory of one namespace.

    All keys below it start with `prefix`. `start` is where the component that is not finished yet begins:
    `len(prefix)`, except in the directories that hold the rest of a long component (`is_chunk`).
    Not every key with the prefix of a chunk directory lies in it: see `Naming.split_child`.
    """

    prefix: str
    start: int

    ROOT: ClassVar["DirRef"]

    @property
    def is_chunk(self) -> bool:
        """True if it holds the rest of a component too long for one name."""
        return self.start != len(self.prefix)


DirRef.ROOT = DirRef("", 0)


class Child(Struct, frozen=True, gc=False):
    """The meaning of a name below a directory: as a file `key`, as a directory `directory`.

    Either is None when it cannot be that, never both.
    """

    key: Key | None
    directory: DirRef | None


@dataclass(frozen=True, slots=True)
class Naming:
    """The rules for one separator: one character, or "" for a flat namespace (no directories but chunks).

    `reserved` are names that start with a dot and belong to somebody else (`.kvfs` where the root of the
    mount is a namespace); a component of that text is escaped, in every directory.
    """

    separator: str = "/"
    reserved: frozenset[str] = frozenset()
    _whole: dict[str, str] = field(init=False, repr=False, compare=False)
    _whole_back: dict[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.separator) > 1 or "\ud800" <= self.separator <= "\udfff":
            raise InvalidError(f"a separator is one character or none, not {self.separator!r}")
        back = {"%": "", "%2E": ".", "%2E%2E": ".."} | {f"%2E{name[1:]}": name for name in self.reserved}
        whole = {text: name for name, text in back.items()}
        whole |= {looks: f"%25{looks[1:]}" for looks in (SELF, *back)}
        object.__setattr__(self, "_whole", whole)
        object.__setattr__(self, "_whole_back", back)

    # one component

    def encode_component(self, component: str) -> tuple[str, ...]:
        """Return the name of a component, or the names when it is cut: all but the last end in `%+`."""
        if self._is_plain(component):
            return (component,)
        *chunks, last = self._cut(component, NAME_BYTES)
        return (*(self._escape(piece) + CHUNK for piece in chunks), self._escape(last))

    def decode_name(self, name: str) -> str | None:
        """Return the text of one name that is no `%self` and no chunk; None unless encoding gives `name` back."""
        text = self._whole_back.get(name)
        if text is None:
            text = _TOKEN.sub(lambda token: _UNESCAPE[token[0]], name)
        if self.separator and self.separator in text:
            return None
        return text if self._escape(text) == name and len(name.encode()) <= NAME_BYTES else None

    def _is_plain(self, component: str) -> bool:
        """Return whether a component is its own name, for all ordinary ones; the rest take the long way."""
        return (
            2 < len(component) <= _PLAIN_CHARS
            and "%" not in component
            and "/" not in component
            and "\0" not in component
            and component not in self.reserved
        )

    def _escape(self, text: str) -> str:
        """Return the name of a component or piece, whatever its length."""
        whole = self._whole.get(text)
        if whole is not None:
            return whole
        if text.endswith(CHUNK):
            return self._escape_inside(text[:-2]) + "%25+"
        return self._escape_inside(text)

    @staticmethod
    def _escape_inside(text: str) -> str:
        return _ESCAPED.sub(lambda match: _ESCAPE[match[0]], text)

    def _cut(self, component: str, most: int) -> list[str]:
        """Return the pieces of a component, of which the last has a name of at most `most` bytes.

        With `most` = 253 it cuts the text of a chunk directory, which ends in a full piece: two full pieces
        never fit one name, and a cut depends on no more than the two characters behind it.
        """
        pieces = []
        while len(self._escape(component).encode()) > most:
            piece = component[: _cut_at(component)]
            pieces.append(piece)
            component = component[len(piece) :]
        return [*pieces, component]

    # whole keys

    def path_of(self, key: Key, *, is_directory_too: bool = False) -> tuple[str, ...]:
        """Return the names that lead from the namespace to a key; `is_directory_too` when keys lie below it."""
        components = key.split(self.separator) if self.separator else [key]
        names = tuple(name for component in components for name in self.encode_component(component))
        return (*names, SELF) if is_directory_too else names

    def key_of(self, path: Sequence[str]) -> Key:
        """Return the key of a path. Raises what `child` raises, and `InvalidError` for a path that is no key's.

        Both paths of key `a`, `a` and `a/%self`, give it; which of them is there, the namespace decides.
        """
        found = Child(None, DirRef.ROOT)
        for name in path:
            if found.directory is None:
                raise InvalidError(f"nothing can be below {name!r} in {path!r}")
            found = self.child(found.directory, name.encode(errors="surrogateescape"))
        if found.key is None:
            raise InvalidError(f"{path!r} is no key's path")
        return found.key

    # one step down

    def child(self, directory: DirRef, name: bytes) -> Child:
        """Translate a kernel's name below a directory.

        Raises `NameNotTextError`, `NameTooLongError` (a name above 255 bytes, a key above 512) and
        `InvalidError` for a name that encoding would never give here.
        """
        if len(name) > NAME_BYTES:
            raise NameTooLongError(f"a name has at most {NAME_BYTES} bytes, this one {len(name)}")
        try:
            text = name.decode()
        except UnicodeDecodeError as exc:
            raise NameNotTextError(f"keys are UTF-8 text, {name!r} is not") from exc
        above, separator = directory.prefix, self.separator
        if len(above) + len(text) < _SHORT_KEY and directory.start == len(above) and self._is_plain(text):
            if not separator:
                return Child(Key(above + text), None)
            if separator not in text:
                below = above + text + separator
                return Child(Key(above + text), DirRef(below, len(below)))
        if text == SELF:
            return self._self_child(directory)
        return (
            self._chunk_child(directory, text) if text.endswith(CHUNK) else self._plain_child(directory, text)
        )

    def _self_child(self, directory: DirRef) -> Child:
        key = self.self_key(directory)
        if key is None:
            raise InvalidError(f"{SELF} means nothing here; a file of that name is %25self")
        return Child(key, None)

    def _chunk_child(self, directory: DirRef, name: str) -> Child:
        """Return the child of a chunk's name; it has one only if a longer component starts with exactly these pieces.

        That is when one character more would not fit for at least one character. The worst has 4 bytes (an
        escape adds 3 at most), so: the piece, not counting the escape of a final `%+`, has 250 bytes or more.
        """
        piece = self.decode_name(name[: -len(CHUNK)])
        if piece is None or len(self._escape_inside(piece).encode()) < _CHUNK_LEAST:
            raise InvalidError(
                f"{name!r} is not the start of a long name; a name that ends in %+ ends in %25+"
            )
        done = directory.prefix[directory.start :]
        before = self._cut(done, _CHUNK_BYTES) if done else []
        if self._cut(done + piece, _CHUNK_BYTES) != [*before, piece]:
            raise InvalidError(f"{name!r} does not go on where the name above was cut")
        prefix = directory.prefix + piece
        if len(prefix.encode()) >= KEY_BYTES:  # the last piece is never empty
            raise NameTooLongError(f"a key has at most {KEY_BYTES} bytes")
        return Child(None, DirRef(prefix, directory.start))

    def _plain_child(self, directory: DirRef, name: str) -> Child:
        piece = self.decode_name(name)
        if piece is None:
            raise InvalidError(f"{name!r} is not how any key's name is written")
        key = Key(directory.prefix + piece)
        names = (*self._chunk_names(directory), name)
        if directory.is_chunk and self.encode_component(key[directory.start :]) != names:
            raise InvalidError(f"{name!r} does not go on where the name above was cut")
        size = len(key.encode())
        if size > KEY_BYTES:
            raise NameTooLongError(f"a key has at most {KEY_BYTES} bytes, this one {size}")
        below = self._below(key)
        as_file = None if key in FORBIDDEN_KEYS else key
        if as_file is None and below is None:
            raise InvalidError(f"KV forbids the key {key!r}")
        return Child(as_file, below)

    def _below(self, key: str) -> DirRef | None:
        """Return the directory of the keys below a key; None in flat mode or when no key could be that long.

        512 bytes is not too long: that key ends in the separator and shows as `%`.
        """
        prefix = key + self.separator
        return DirRef(prefix, len(prefix)) if self.separator and len(prefix.encode()) <= KEY_BYTES else None

    def self_key(self, directory: DirRef) -> Key | None:
        """Return the key that shows as `%self` in a directory; None where there is none."""
        if directory.is_chunk or not directory.prefix:
            return None
        key = Key(directory.prefix[:-1])
        return None if key in FORBIDDEN_KEYS else key

    def split_child(self, directory: DirRef, key: Key) -> tuple[str, DirRef | None]:
        """Return the name under which a key that starts with the directory's prefix appears directly in it.

        The second is the directory of that name when the key lies below it, None when the key is the file.
        `("", None)`: the key has the prefix of this chunk directory and yet is not in it (another cut).
        """
        start = directory.start
        end = key.find(self.separator, start) if self.separator else -1
        component = key[start:] if end < 0 else key[start:end]
        below = None if end < 0 else DirRef(key[: end + 1], end + 1)
        if start == len(directory.prefix) and self._is_plain(component):
            return component, below
        return self._split_long(directory, component, below)

    def _split_long(
        self, directory: DirRef, component: str, below: DirRef | None
    ) -> tuple[str, DirRef | None]:
        at = directory.start
        *chunks, last = self._cut(component, NAME_BYTES)
        for piece in chunks:
            if at == len(directory.prefix):
                reached = directory.prefix + piece
                return self._escape(piece) + CHUNK, DirRef(reached, directory.start)
            at += len(piece)
        return (self._escape(last), below) if at == len(directory.prefix) else ("", None)

    # one step up

    def parent_of(self, ref: DirRef) -> DirRef:
        """Return the directory above; the root's is itself."""
        if not ref.is_chunk:
            return self.parent_of_key(Key(ref.prefix[:-1])) if ref.prefix else ref
        last = self._cut(ref.prefix[ref.start :], _CHUNK_BYTES)[-1]
        return DirRef(ref.prefix[: -len(last)], ref.start)

    def name_in_parent(self, ref: DirRef) -> str:
        """Return the last name of a directory's path, "" for the root."""
        if ref.is_chunk:
            return self._chunk_names(ref)[-1]
        return self.name_of_key(Key(ref.prefix[:-1])) if ref.prefix else ""

    def parent_of_key(self, key: Key) -> DirRef:
        """Return the directory of `path_of(key)`, not of its `%self`."""
        start = self._last_start(key)
        if self._is_plain(key[start:]):
            return DirRef(key[:start], start)
        *chunks, _ = self._cut(key[start:], NAME_BYTES)
        return DirRef(key[:start] + "".join(chunks), start)

    def name_of_key(self, key: Key) -> str:
        """Return the last name of `path_of(key)`."""
        component = key[self._last_start(key) :]
        return component if self._is_plain(component) else self.encode_component(component)[-1]

    def _last_start(self, key: str) -> int:
        return key.rfind(self.separator) + 1 if self.separator else 0

    def _chunk_names(self, ref: DirRef) -> tuple[str, ...]:
        if not ref.is_chunk:
            return ()
        pieces = self._cut(ref.prefix[ref.start :], _CHUNK_BYTES)
        return tuple(self._escape(piece) + CHUNK for piece in pieces)


def _cut_at(text: str) -> int:
    """Return the length, in characters, of the longest piece whose name takes at most 253 bytes."""
    used = 0
    for at, char in enumerate(text):
        used += 3 if char in "\0/" else len(char.encode())
        if text[max(at - 2, 0) : at + 1] in _UNESCAPE:
            used += 2  # this character makes the % two before it an escape
        if used > _CHUNK_BYTES:
            return at - 1 if _ends_escaped(text[:at]) else at
    return len(text)


def _ends_escaped(piece: str) -> bool:
    """Return whether a piece that would fit no longer does, for the escape of its final `%+`."""
    return piece.endswith(CHUNK) and len(Naming._escape_inside(piece).encode()) + 2 > _CHUNK_BYTES


_TITLES = Naming("", frozenset({CONTROL}))


def title_names(namespaces: Iterable[Namespace]) -> dict[str, Namespace]:
    """Return the directory name of every namespace at the root: its title, escaped, or its id.

    The id stands in for a title that is too long for a name, belongs to a namespace with a smaller id as
    well, or is the id of another one; so every namespace has one name, and no two the same.
    Ids are the API's: unique and short enough for a name.
    """
    by_id = {namespace.id: namespace for namespace in namespaces}
    id_names = {_TITLES._escape(namespace_id): namespace_id for namespace_id in by_id}
    names: dict[str, Namespace] = {}
    for namespace_id, namespace in sorted(by_id.items()):
        name = _TITLES._escape(namespace.title)
        taken = name in names or id_names.get(name, namespace_id) != namespace_id
        if taken or len(name.encode()) > NAME_BYTES:
            name = _TITLES._escape(namespace_id)
        names[name] = namespace
    return names


def title_of(name: str) -> str:
    """Return the title that a directory made or renamed at the root gets.

    Raises `InvalidError` for a name no title is written as (a reserved one too), `NameTooLongError` and
    `NameNotTextError`.
    """
    try:
        size = len(name.encode())
    except UnicodeEncodeError as exc:
        raise NameNotTextError(f"titles are UTF-8 text, {name!r} is not") from exc
    if size > NAME_BYTES:
        raise NameTooLongError(f"a name has at most {NAME_BYTES} bytes, this one {size}")
    title = _TITLES.decode_name(name)
    if not title:
        raise InvalidError(f"{name!r} is not how any namespace's title is written")
    return title  # no longer than the name, so below the 512 characters of a title
