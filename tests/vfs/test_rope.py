"""The content of an open file against the simplest model of one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvfs.core.errors import FileTooBigError
from kvfs.core.limits import VALUE_BYTES
from kvfs.vfs.file import rope as rope_module
from kvfs.vfs.file.rope import PIECE, STREAM_BYTES, Rope


class Fed:
    """A stream that remembers what it was fed."""

    def __init__(self) -> None:
        self.content = b""
        self.abandoned = False

    def feed(self, piece: bytes) -> None:
        self.content += piece

    def abandon(self) -> None:
        self.abandoned = True


OFFSETS = st.integers(0, 3 * PIECE) | st.just(-1)
DATA = st.builds(lambda size, byte: bytes([byte]) * size, st.sampled_from([0, 1, 100, PIECE, PIECE + 1]),
                 st.integers(0, 255))  # fmt: skip
STEPS = st.lists(
    st.tuples(st.just("write"), OFFSETS, DATA)
    | st.tuples(st.just("resize"), st.integers(0, 3 * PIECE), st.just(b""))
    | st.tuples(st.just("read"), st.integers(0, PIECE), st.just(b"")),
    max_size=12,
)


@given(st.sampled_from([b"", b"start"]), STEPS)
def test_a_rope_is_a_file(start: bytes, steps) -> None:
    """After any writes, cuts and reads the content is that of a plain buffer.

    A stream that was not abandoned was fed exactly that.
    """
    streams: list[Fed] = []

    def opened() -> Fed:
        streams.append(Fed())
        return streams[-1]

    rope, model = Rope.of(start, opened), bytearray(start)
    for what, number, data in steps:
        if what == "write":
            offset = len(model) if number < 0 else number
            rope.write(offset, data)
            if data:
                model.extend(bytes(max(0, offset - len(model))))
                model[offset : offset + len(data)] = data
        elif what == "resize":
            rope.resize(number)
            model = model[:number] + bytes(max(0, number - len(model)))
        else:
            assert bytes(rope.read(number, 10)) == model[number : number + 10]
        assert len(rope) == len(model)
        stream = rope.stream
        assert stream is None or (stream.content == model and not stream.abandoned)
    assert rope.value() == model
    assert all(stream.abandoned for stream in streams if stream is not rope.stream)


def test_a_file_written_from_its_start_is_fed_as_it_grows() -> None:
    """A file written from its start is fed in large pieces as it grows, and a write elsewhere ends that."""
    stream = Fed()
    rope = Rope.of(open_stream=lambda: stream)
    for number in range(3 * STREAM_BYTES // PIECE):
        rope.write(len(rope), bytes([number % 256]) * PIECE)
    rope.write(len(rope), b"tail")
    assert stream.content == rope.value()
    rope.write(0, b"!")
    assert stream.abandoned
    assert rope.stream is None


def test_appending_in_pieces_copies_nothing() -> None:
    """One large write is the content itself, and is not copied for the journal either."""
    data = bytes(PIECE)
    rope = Rope()
    rope.write(0, data)
    assert rope.value() is data


def test_what_no_value_can_hold_changes_nothing() -> None:
    """A write beyond 25 MiB is refused before anything is changed."""
    rope = Rope.of(b"as it was")
    for refused in (lambda: rope.write(VALUE_BYTES, b"x"), lambda: rope.resize(VALUE_BYTES + 1)):
        with pytest.raises(FileTooBigError):
            refused()
    assert rope.value() == b"as it was"
    assert not rope.changed
    assert rope_module.STREAM_BYTES < VALUE_BYTES
