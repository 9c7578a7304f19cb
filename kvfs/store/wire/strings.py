"""Values as JSON text, a bite at a time: no step holds the interpreter for more than about a millisecond.

A body of 60 MB is made in a thread, but threads take turns: one long step there delays every file operation.
Between two bites `pause` is called, which in a thread gives the others a turn.
"""

import binascii
import codecs
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO
from typing import Final

import msgspec

from kvfs.store.wire.json import MalformedError, decode_leniently, unmarked

BITE: Final = 192 * 1024  # bytes, a multiple of 3
_LONGEST: Final = 12  # bytes of one character: two escapes that are a surrogate pair
_STRETCH: Final = 0.001  # seconds of work between two pauses
_TURN: Final = 0.000_1  # seconds of a pause: with none at all the same thread most often goes on

Pause = Callable[[], None]


def go_on() -> None:
    """Do not pause: the pause of work that nobody waits behind."""


class GiveWay:
    """The pause of work in a thread: whoever waits for the interpreter gets it, every now and then."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    def __call__(self) -> None:
        """Sleep for a moment if it is time."""
        if time.monotonic() - self._since > _STRETCH:
            time.sleep(_TURN)
            self._since = time.monotonic()


def as_string(value: bytes, most: int, pause: Pause = go_on) -> list[bytes] | None:
    """Return the value as a JSON string, in pieces; None when it is no text, or takes more than `most` bytes."""
    if len(value) <= BITE and value.isascii():  # most are
        whole = msgspec.json.encode(value.decode())
        return [whole] if len(whole) - 2 <= most else None
    decode = codecs.getincrementaldecoder("utf-8")().decode
    pieces, left = [b'"'], most
    try:
        for bite, is_last in _bites(value):
            text = msgspec.json.encode(decode(bite, is_last))[1:-1]
            left -= len(text)
            if left < 0:
                return None
            pieces.append(text)
            pause()
    except UnicodeDecodeError:
        return None
    return [*pieces, b'"']


def as_base64(value: bytes, pause: Pause = go_on) -> list[bytes]:
    """Return the value as a JSON string of base64, in pieces."""
    pieces = [b'"']
    for bite, _ in _bites(value):
        pieces.append(binascii.b2a_base64(bite, newline=False))
        pause()
    return [*pieces, b'"']


def string_bytes(text: memoryview) -> bytes:
    """Return the UTF-8 of a JSON string, quotes included. Raises `MalformedError` for anything but Unicode text.

    A large one is decoded in bites: a `str` with one emoji in it takes four bytes for every character.
    """
    if len(text) <= BITE:
        found: str = decode_leniently(bytes(text), str)
        value = found.encode()
    else:
        value = _decoded_in_bites(text)
    if unmarked(value) is not value:
        raise MalformedError("it holds half of a surrogate pair, which is no text")
    return value


def _decoded_in_bites(text: memoryview) -> bytes:
    if text[0] != 0x22 or text[-1] != 0x22:
        raise MalformedError("it is no JSON string")
    whole, at, end = BytesIO(), 1, len(text) - 1  # hands its bytes out in the end without copying them
    while at < end:
        part, at = _decoded_part(text, at, min(at + BITE, end))
        whole.write(part)
    return whole.getvalue()


def _decoded_part(text: memoryview, start: int, end: int) -> tuple[bytes, int]:
    """Return the text from `start` to the end of the last character before `end`, and where that is."""
    for stop in range(end, max(start, end - _LONGEST), -1):
        with suppress(msgspec.MsgspecError, UnicodeError):  # a character is cut in two
            return msgspec.json.decode(b'"' + bytes(text[start:stop]) + b'"', type=str).encode(), stop
    raise MalformedError("it holds bytes or an escape that are no Unicode text")


def _bites(value: bytes) -> Iterator[tuple[bytes, bool]]:
    for start in range(0, len(value) or 1, BITE):
        yield value[start : start + BITE], start + BITE >= len(value)
