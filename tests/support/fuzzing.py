"""The common parts of the fuzzing tests: how much they try, and bytes that are almost what a parser wants.

KVFS_FUZZ is the number of examples a test; the suite tries few, `KVFS_FUZZ=20000 pytest tests/fuzz` takes its time.
"""

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

BUDGET = int(os.environ.get("KVFS_FUZZ", "60"))

fuzzed = settings(
    max_examples=BUDGET,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
slowly_fuzzed = settings(fuzzed, max_examples=max(8, BUDGET // 5))
"""For tests whose every example is a connection or a file system."""

ODD_TEXT = st.text(max_size=40) | st.sampled_from(
    ["", ".", "..", "/", "%", "%00", "%2F", "%self", "%+", "\0", "../../etc/passwd", "a" * 600, "é" * 300, "\ud800",
     ".kvfs", "NaN", "Infinity", "1e999", "-0", "null", "\u202e", "\r\nX: y"]
)  # fmt: skip
ODD_NUMBERS = st.integers() | st.floats() | st.sampled_from([0, -1, 2**31, 2**63, 2**64, 10**400, 1e308])
JSON = st.recursive(
    st.none() | st.booleans() | ODD_NUMBERS | ODD_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ODD_TEXT, inner, max_size=4),
    max_leaves=12,
)


@st.composite
def almost(draw: st.DrawFn, *examples: bytes) -> bytes:
    """Return one of the examples, cut, doubled and with bytes altered."""
    found = bytearray(draw(st.sampled_from(examples)))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(found)))
        kind = draw(st.sampled_from(["replace", "insert", "cut", "remove"]))
        some = draw(
            st.binary(max_size=6) | st.sampled_from([b"null", b"[", b"}", b'"', b"\\ud800", b"1e999"])
        )
        if kind == "insert":
            found[place:place] = some
        elif kind == "replace":
            found[place : place + len(some)] = some
        elif kind == "remove":
            del found[place : place + len(some)]
        else:
            del found[place:]
    return bytes(found)
