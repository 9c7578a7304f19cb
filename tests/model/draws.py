"""Strategies of the machines: names, keys, contents, attributes, few enough to meet again, odd enough to hurt."""

from hypothesis import strategies as st
from model.shown import REFUSED

from kvfs.core.limits import FORBIDDEN_KEYS

LONG = "x" * 250
_ODD = [
    "%", "%2F", "%252F", "%00", "%25", "%self", "%25self", "%2E", "%2E%2E", "a%+", "%2f", "+", "a.", "é", "%0",
    "0", "%20", "a:b", "%3A", ".a.swp", "a~", ".kvfs", "%2Ekvfs", LONG, LONG + "%+",
]  # fmt: skip
NAMES = st.sampled_from(["a", "b", "c"] * 25 + _ODD)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(tuple)
_COMPONENTS = st.sampled_from(
    ["a", "b", "c", "", ".", "..", "%", "%self", "\0", "%2F", "a%+", "a~", ".kvfs", "é" * 140, LONG * 2]
)
_PARTS = st.lists(_COMPONENTS, min_size=1, max_size=3)


def keys(separator: str, top: str) -> "st.SearchStrategy[str]":
    """Keys another client may write: below `top`, beside it, and `top` without its separator."""
    below = _PARTS.map(lambda parts: top + (separator or "/").join(parts))
    beside = st.sampled_from([top[:-1] or "a", "q", "pa"])
    return (below | beside if top else below).filter(
        lambda key: 0 < len(key.encode()) <= 512 and key not in FORBIDDEN_KEYS
    )


_SMALL = [b"", b"x", b"yy", b"hello\n", b"\xff\x00", b"0123456789" * 20]
SMALL = st.sampled_from(_SMALL)
DATA = st.sampled_from(_SMALL * 6 + [b"text " * 30_000, b"\xfe" * 150_000, REFUSED, REFUSED])
METADATA = st.sampled_from([None, None, b'{"k":"v"}', b'{"n":1,"k":"w"}', b"[1]", b'"text"'])
ATTRIBUTES = st.sampled_from(["user.k", "user.n", "user.kvfs.metadata", "user.é"])
TEXTS = st.sampled_from([b"v", b"2", b'{"z":[1]}', b"true", b"\xff"])
AHEAD = st.sampled_from([None, None, None, 100, 400])
PICK = st.integers(0, 1 << 16)
