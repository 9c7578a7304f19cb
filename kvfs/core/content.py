"""The bytes of a value: writes, cuts, growth and reads at an offset, within KV's 25 MiB; and if they are text."""

from codecs import getincrementaldecoder
from typing import Final

from kvfs.core.errors import FileTooBigError, InvalidError
from kvfs.core.limits import VALUE_BYTES

_BITE: Final = 64 * 1024


def splice(buffer: bytearray, offset: int, data: bytes | bytearray | memoryview) -> None:
    """Write `data` at `offset`; a hole in front of it reads as zeros. Writing nothing changes nothing.

    Raises `FileTooBigError`, before anything is allocated or changed.
    """
    end = check_size(offset + len(data), least=len(data))
    if not data:
        return
    if offset > len(buffer):
        buffer.extend(bytes(offset - len(buffer)))
    buffer[offset:end] = data


def resize(buffer: bytearray, size: int) -> None:
    """Cut off what is beyond `size`, or grow to it with zeros. Raises `FileTooBigError`."""
    missing = check_size(size) - len(buffer)
    if missing > 0:
        buffer.extend(bytes(missing))
    else:
        del buffer[size:]


def read_at(buffer: bytes | bytearray, offset: int, size: int) -> bytes:
    """Return at most `size` bytes from `offset`: fewer at the end, none beyond it. Copies once."""
    if offset < 0 or size < 0:
        raise InvalidError(f"no bytes at offset {offset}, size {size}")
    with memoryview(buffer) as view:
        return bytes(view[offset : offset + size])


def check_size(size: int, *, least: int = 0) -> int:
    """Return the size. Raises `FileTooBigError` for one no value can have, `InvalidError` for less than the `least`."""
    if size < least:
        raise InvalidError(f"a file has no negative offset or size: {size - least}")
    if size > VALUE_BYTES:
        raise FileTooBigError(f"a value has at most {VALUE_BYTES} bytes (25 MiB), this would be {size}")
    return size


def is_text(value: bytes) -> bool:
    """Return whether a bulk get can answer the value: it takes UTF-8 only (error 10029)."""
    if value.isascii():
        return True
    decode = getincrementaldecoder("utf-8")().decode  # a failed decode() copies the whole value for its error
    try:
        for start in range(0, len(value), _BITE):
            decode(value[start : start + _BITE], start + _BITE >= len(value))
    except UnicodeDecodeError:
        return False
    return True
