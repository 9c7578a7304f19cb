"""tar, both ways: as GNU tar writes and reads it with --xattrs.

A key is a member under the path that it has in a mount; metadata are PAX headers SCHILY.xattr.user.FIELD, and
an expiration is a modification time in the future, so that `tar -x` into a mount, or `tar -c` of one, keeps
all of it. The PAX comment, which every tar passes over, says the expiration too: when it has passed, the time
alone would not tell.
"""

import tarfile
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import IO, BinaryIO, Final

from kvfs.core import xattrs
from kvfs.core.errors import InvalidError, KvfsError, NameNotTextError, NameTooLongError, UserError
from kvfs.core.expiry import NOW_SLACK
from kvfs.core.limits import VALUE_BYTES
from kvfs.core.model import Entry, Key, Metadata
from kvfs.core.names import Naming
from kvfs.data.jsonentry import JsonEntry

XATTR: Final = "SCHILY.xattr."
COMMENT: Final = "kvfs expiration="
BLOCK: Final = 512
BITE: Final = 256 * 1024  # bytes of a value that are read at a time
_NAMING: Final = Naming("/")


class TarEncoder:
    """Encodes entries as members.

    `has_children` tells whether keys lie below a key, `now` is the time of the export.
    """

    start = b""
    end = bytes(2 * BLOCK)

    def __init__(self, has_children: Callable[[Key], bool], now: float) -> None:
        self._has_children = has_children
        self._now = int(now)

    def encode(self, key: Key, entry: Entry, modified: float | None, *, is_first: bool) -> list[bytes]:
        """Yield one entry, in pieces."""
        path = _NAMING.path_of(key, is_directory_too=self._has_children(key))
        member = tarfile.TarInfo("/".join(path))
        member.size, member.mode = len(entry.value), 0o600
        member.mtime = self._mtime(entry.expiration, modified)
        member.pax_headers = {XATTR + name: _text(value) for name, value in attributes_of(entry.metadata)}
        if entry.expiration is not None:
            member.pax_headers["comment"] = f"{COMMENT}{entry.expiration}"
        header = member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        return [header, entry.value, bytes(-len(entry.value) % BLOCK)]

    def _mtime(self, expiration: int | None, modified: float | None) -> int:
        if expiration is not None:
            return expiration
        return self._now if modified is None else min(int(modified), self._now)


def attributes_of(metadata: Metadata | None) -> list[tuple[str, bytes]]:
    """Return metadata as extended attributes: a field each, and the whole document if they would not make it again."""
    if metadata is None:
        return []
    found = [(name, xattrs.get(metadata, name)) for name in xattrs.list_names(metadata)]
    if metadata_from(found) != metadata:
        found = [pair for pair in found if pair[0] != xattrs.WHOLE] + [(xattrs.WHOLE, metadata)]
    return found


def metadata_from(attributes: list[tuple[str, bytes]]) -> Metadata | None:
    """Return the metadata that extended attributes stand for.

    Raises what `xattrs.set` raises, `NoSpaceError` included.
    """
    whole = dict(attributes).get(xattrs.WHOLE)
    if whole is not None:
        return whole
    metadata: Metadata | None = None
    for name, value in attributes:
        if name.startswith(xattrs.USER) and name not in xattrs.COMPUTED:
            metadata = xattrs.set(metadata, name, value)
    return metadata


def read(file: BinaryIO, now: float) -> Iterator[JsonEntry]:
    """Yield the records of the archive, in order: its regular files. Raises `UserError` for what is no tar."""
    try:
        with tarfile.open(fileobj=file, mode="r|") as archive:
            while (member := archive.next()) is not None:
                if not member.isdir():
                    yield _record(archive, member, now)
                archive.members = []  # type: ignore[attr-defined] # tarfile keeps all it has seen
    except tarfile.TarError as exc:
        raise UserError(f"it is no tar archive, or it is damaged: {exc}") from exc


def _record(archive: tarfile.TarFile, member: tarfile.TarInfo, now: float) -> JsonEntry:
    where, key = f"member {member.name}", ""
    try:
        key = key_of(member.name)
        if not member.isreg():
            raise InvalidError("it is no regular file: KV has a place for files only")
        if member.size > VALUE_BYTES:
            raise InvalidError(f"its value has {member.size} bytes, at most {VALUE_BYTES} are allowed")
        attributes = [
            (name.removeprefix(XATTR), value.encode("utf-8", "surrogateescape"))
            for name, value in member.pax_headers.items()
            if name.startswith(XATTR + xattrs.USER)
        ]
        metadata = metadata_from(attributes)
        content = archive.extractfile(member)
        assert content is not None
        entry = Entry(_content(content, member.size), metadata, _expiration(member, now))
    except (KvfsError, tarfile.TarError) as exc:
        return JsonEntry(where, key, fault=str(exc))
    return JsonEntry(where, key, entry, modified=float(member.mtime))


def _content(file: IO[bytes], size: int) -> bytes:
    """Return so many bytes, read in bites because tarfile holds four copies of what is read at once."""
    whole = BytesIO()  # hands its bytes out in the end without copying them
    while size and (bite := file.read(min(size, BITE))):
        whole.write(bite)
        size -= len(bite)
    return whole.getvalue()


def key_of(name: str) -> Key:
    """Return the key of a member's name. Raises `InvalidError`, `NameNotTextError`, `NameTooLongError`."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or name.startswith("/"):
        raise InvalidError("its path leads out of the archive, or nowhere")
    try:
        return _NAMING.key_of(parts)
    except (NameNotTextError, NameTooLongError):
        raise
    except InvalidError as exc:
        raise InvalidError(f"its name is no key's: {exc}") from exc


def _expiration(member: tarfile.TarInfo, now: float) -> int | None:
    comment = member.pax_headers.get("comment", "")
    if comment.startswith(COMMENT) and comment.removeprefix(COMMENT).isdigit():
        return int(comment.removeprefix(COMMENT))
    return int(member.mtime) if member.mtime > now + NOW_SLACK else None


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")
