"""Kinds: knowledge of which values are text and which binary, because one binary value fails a whole bulk get.

Mounts and copies learn it, each in a `Kinds` of its own.

Knowledge that saves a request later is kept on this machine between them (host/kinds_file.py), as `Kept`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kvfs.core.latest import Latest
from kvfs.core.model import Key, KeyRef, NamespaceId

_SINGLY = 0.25  # a key at least this likely to be binary is asked for alone
_RISK = 1.0  # binaries that a batch may be expected to hold
_FORGET = 10_000  # values of a kind after which older ones count half
_ENDINGS = 10_000  # endings remembered
_BINARIES = 100_000  # single keys remembered as binary
_APART = 1_000  # keys remembered that were asked for in vain
_ENDING = 8  # characters of an ending; what is longer, or a number, says nothing
# Endings taken for binary until a value says otherwise.
# fmt: off
_BINARY = frozenset([
    "7z", "a", "avi", "avif", "avro", "bin", "bmp", "br", "bz2", "cbor", "class", "dat", "db", "der", "dll",
    "docx", "dylib", "eot", "exe", "flac", "gif", "gz", "heic", "ico", "iso", "jar", "jpeg", "jpg", "lz4", "lzma",
    "m4a", "m4v", "mkv", "mov", "mp3", "mp4", "msgpack", "npy", "npz", "o", "odt", "ogg", "otf", "p12", "parquet",
    "pb", "pdf", "pfx", "png", "pptx", "pyc", "rar", "so", "sqlite", "sqlite3", "tar", "tgz", "tif", "tiff", "ttf",
    "wasm", "wav", "webm", "webp", "woff", "woff2", "xlsx", "xz", "zip", "zst",
])
# fmt: on
_GROUPS = 8  # more endings than this in a refused batch: halves tell more

_SURELY = 0.9  # an ending of which so many values are binary tells that of a key nothing else is known of

NameKind = tuple[NamespaceId, str]


@dataclass
class Kept:
    """The knowledge of one namespace: keys that are `binary` (false: no longer), and counts by ending."""

    binary: dict[str, bool] = field(default_factory=dict)
    endings: dict[str, tuple[int, int]] = field(default_factory=dict)


class Kinds:
    """Counts of text and binary values by the ending of the name (or the directory, where there is none)."""

    def __init__(self) -> None:
        self._seen = Latest[NameKind, tuple[int, int]](_ENDINGS)  # texts and binaries
        self._binaries = Latest[KeyRef, bool](_BINARIES)
        self._news = Latest[KeyRef, bool](_BINARIES)  # that became binary, or ceased to be, since `take_news`
        self._apart = Latest[KeyRef, None](_APART)  # asked for in vain
        self._doubted: set[NamespaceId] = set()  # where an ending turned out to be another than it says

    def recall(self, kept: Mapping[NamespaceId, Kept]) -> None:
        """Take in the knowledge of before; must be called before anything is learned."""
        for namespace, known in kept.items():
            for ending, counts in known.endings.items():
                self._seen.keep((namespace, ending), counts)
            for key, is_so in known.binary.items():
                if is_so:
                    self._binaries.keep((namespace, Key(key)), True)

    def learn(self, place: KeyRef, *, is_text: bool) -> None:
        """Take in the kind of a value that arrived."""
        if self._apart:
            self._apart.pop(place, None)
        kind = kind_of(place)
        texts, binaries = self._seen.get(kind, (0, 0))
        if is_text:
            texts += 1
            if self._binaries and place in self._binaries:
                del self._binaries[place]
                self._news.keep(place, False)
        elif place not in self._binaries:
            binaries += 1
            self._binaries.keep(place, True)
            self._news.keep(place, True)
        if texts + binaries > _FORGET:
            texts, binaries = texts // 2, (binaries + 1) // 2
        if kind not in self._seen and is_text and _is_known_binary(kind):
            self._doubted.add(place[0])
        if texts + binaries:  # a binary that was known before is not counted again
            self._seen.keep(kind, (texts, binaries))

    def take_news(self) -> dict[NamespaceId, Kept]:
        """Return the knowledge gained since the last call."""
        news: dict[NamespaceId, Kept] = {namespace: Kept() for namespace in self._doubted}
        for (namespace, key), is_so in self._news.items():
            news.setdefault(namespace, Kept()).binary[key] = is_so
        self._news.clear()
        self._doubted.clear()
        for (namespace, name), counts in self._seen.items():
            if namespace in news and name.startswith("."):
                news[namespace].endings[name] = counts
        return news

    def count(self, namespace: NamespaceId) -> int:
        """Count the values of a namespace that are known to be binary."""
        return sum(place[0] == namespace for place in self._binaries)

    def risk(self, place: KeyRef) -> float:
        """Return the likelihood that the value is binary, 0 to 1; 0 when nothing is known of it."""
        if place in self._binaries:
            return 1.0
        kind = kind_of(place)
        seen = self._seen.get(kind)
        if seen is None or sum(seen) < 1:
            return 1.0 if _is_known_binary(kind) else 0.0
        return seen[1] / sum(seen)

    def is_binary(self, place: KeyRef) -> bool:
        """Return whether the value was binary when it was read last."""
        return place in self._binaries

    def is_guessed(self, place: KeyRef) -> bool:
        """Return whether its well-known ending is all that is known of it."""
        kind = kind_of(place)
        return kind not in self._seen and _is_known_binary(kind)

    def set_apart(self, place: KeyRef) -> None:
        """Note that a value was asked for alone, and in vain: nobody else is to wait for it until it comes."""
        self._apart.keep(place, None)

    def is_single(self, place: KeyRef) -> bool:
        """Return whether the value is better asked for alone."""
        return place in self._apart or self.risk(place) >= _SINGLY

    def is_surely_single(self, place: KeyRef) -> bool:
        """Return whether the key is known to be binary, or its ending leaves little doubt; for a reader of every key.

        The others of a mixed ending come by the hundred when all binaries of it are known.
        """
        if place in self._binaries:
            return True
        kind = kind_of(place)
        texts, binaries = self._seen.get(kind, (0, 0))
        if not kind[1].startswith(".") or not texts + binaries:
            return _is_known_binary(kind)
        return binaries / (texts + binaries) >= _SURELY

    def fits(self, risk: float) -> bool:
        """Return whether a batch may carry so much risk in all."""
        return risk <= _RISK

    def divide(self, namespace: NamespaceId, keys: Sequence[Key]) -> list[list[Key]]:
        """Return smaller batches for one that a binary value failed: by endings, or halves.

        One key of an ending never seen goes first and alone: when it is binary, the rest mostly are.
        """
        groups: dict[NameKind, list[Key]] = {}
        for key in keys:
            groups.setdefault(kind_of((namespace, key)), []).append(key)
        if 1 < len(groups) <= _GROUPS:
            return list(groups.values())
        if len(groups) == 1 and next(iter(groups)) not in self._seen:
            return [[keys[0]], *halves(keys[1:])]
        return halves(keys)


def halves(keys: Sequence[Key]) -> list[list[Key]]:
    """Return two halves, or as many parts as there are keys."""
    middle = (len(keys) + 1) // 2
    return [list(half) for half in (keys[:middle], keys[middle:]) if half]


def kind_of(place: KeyRef) -> NameKind:
    """Classify a key by its name: by the ending of its last component, or by its directory."""
    namespace, key = place
    directory, slash, name = key.rpartition("/")
    stem, _, ending = name.rpartition(".")
    if stem and 0 < len(ending) <= _ENDING and not ending.isdigit():
        return namespace, f".{ending}"
    return namespace, directory + slash


def _is_known_binary(kind: NameKind) -> bool:
    return kind[1].startswith(".") and kind[1][1:].lower() in _BINARY
