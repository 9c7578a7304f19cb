"""Digests: a whole content and its pieces have the same one, small or large."""

import hashlib

from blake3 import blake3
from hypothesis import example, given
from hypothesis import strategies as st

from kvfs.core.digest import INLINE_BYTES, Digester, digest

PIECES = st.lists(st.sampled_from([0, 1, 1000, INLINE_BYTES - 1, INLINE_BYTES, INLINE_BYTES + 1, 300_000]))


@given(PIECES)
@example([INLINE_BYTES])
@example([INLINE_BYTES, 1])
@example([INLINE_BYTES - 1, 0, 1])
def test_pieces_give_the_digest_of_the_whole(sizes: list[int]) -> None:
    """Any pieces give the digest of the whole, on whichever side of the border the whole lies."""
    digester = Digester()
    pieces = [bytes([number % 251]) * size for number, size in enumerate(sizes)]
    for piece in pieces:
        digester.update(piece)
    assert digester.digest() == digest(b"".join(pieces))


def test_small_ones_are_what_journals_of_the_past_have() -> None:
    """Digests are BLAKE2b up to the border, as in journals of the past, and BLAKE3 beyond, 16 bytes both."""
    small, large = bytes(INLINE_BYTES), bytes(INLINE_BYTES + 1)
    assert digest(small) == hashlib.blake2b(small, digest_size=16).digest()
    assert digest(large) == blake3(large).digest(length=16)
