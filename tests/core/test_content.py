"""The bytes of a value against the simplest model of a file."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvfs.core.content import is_text, read_at, resize, splice
from kvfs.core.errors import FileTooBigError, InvalidError
from kvfs.core.limits import VALUE_BYTES

OFFSETS = st.integers(0, 60)
STEPS = st.lists(st.tuples(OFFSETS, st.binary(max_size=20)) | OFFSETS, max_size=20)


@given(st.binary(max_size=40), STEPS, OFFSETS, OFFSETS)
def test_writes_and_truncations_are_those_of_a_file(
    start: bytes, steps: list[tuple[int, bytes] | int], offset: int, size: int
) -> None:
    """A content has its bytes where they were last written, and zeros elsewhere, up to the size."""
    buffer = bytearray(start)
    model = dict(enumerate(start))
    length = len(start)
    for step in steps:
        if isinstance(step, int):
            resize(buffer, step)
            model = {at: byte for at, byte in model.items() if at < step}
            length = step
        else:
            at, data = step
            splice(buffer, at, data)
            model.update(enumerate(data, at))
            length = max(length, at + len(data)) if data else length
    expected = bytes(model.get(at, 0) for at in range(length))
    assert buffer == expected
    assert read_at(buffer, offset, size) == expected[offset : offset + size]
    assert read_at(expected, offset, size) == expected[offset : offset + size]


def test_a_value_has_at_most_25_mib() -> None:
    """The last byte fits; one more is refused before anything changes, also at the far end of a hole."""
    buffer = bytearray(b"abc")
    for offset, data in [(VALUE_BYTES, b"x"), (VALUE_BYTES - 1, b"xy"), (2**63 - 1, b"x")]:
        with pytest.raises(FileTooBigError):
            splice(buffer, offset, data)
    for size in (VALUE_BYTES + 1, 2**62):
        with pytest.raises(FileTooBigError):
            resize(buffer, size)
    assert buffer == b"abc"
    splice(buffer, VALUE_BYTES - 1, b"x")
    assert len(buffer) == VALUE_BYTES
    resize(buffer, VALUE_BYTES)
    assert read_at(buffer, VALUE_BYTES - 2, 100) == b"\0x"


def test_any_buffer_can_be_written() -> None:
    """A memoryview or a bytearray can be written as well as bytes."""
    buffer = bytearray()
    splice(buffer, 1, memoryview(b"ab"))
    splice(buffer, 3, bytearray(b"c"))
    assert buffer == b"\0abc"


def test_reading_leaves_the_buffer_free_to_grow() -> None:
    """The result of a read is a copy and does not keep the buffer from growing."""
    buffer = bytearray(b"abc")
    read = read_at(buffer, 0, 2)
    splice(buffer, 0, b"xyz and more")
    assert read == b"ab"


def test_there_is_nothing_before_the_start() -> None:
    """A negative offset or size is an error and does not mean the end of the value."""
    buffer = bytearray(b"abc")
    for call in (
        lambda: splice(buffer, -1, b"xx"),
        lambda: splice(buffer, -1, b""),
        lambda: resize(buffer, -1),
        lambda: read_at(buffer, -1, 2),
        lambda: read_at(buffer, 0, -1),
    ):
        with pytest.raises(InvalidError):
            call()
    assert buffer == b"abc"


@given(st.text(max_size=8), st.integers(-8, 8), st.binary(max_size=4))
def test_a_value_is_text_when_it_decodes(text: str, shift: int, tail: bytes) -> None:
    """A value of any size is text when it decodes, also with a character across two pieces, or cut at the end."""
    value = b"a" * (64 * 1024 + shift) + text.encode() + tail
    try:
        value.decode()
        decodes = True
    except UnicodeDecodeError:
        decodes = False
    assert is_text(value) == decodes


@pytest.mark.parametrize("end", ["é", "€", "😀"])
@pytest.mark.parametrize("cut", [0, 1])
def test_a_character_across_the_pieces_is_text_if_it_is_whole(end: str, cut: int) -> None:
    """A whole character across two pieces is text, however many of its bytes lie before the seam."""
    for before in range(1, len(end.encode())):
        value = b"a" * (64 * 1024 - before) + end.encode()
        assert is_text(value[: len(value) - cut]) == (cut == 0)
