"""Expiration as mtime, around each border."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvfs.core.errors import InvalidError
from kvfs.core.expiry import EXPIRED, expiration_for_mtime, expiration_to_send, is_expired, mtime_of

NOW = 1_700_000_000.4
SECONDS = st.integers(-100_000, 100_000)
CLOCK = st.floats(1e9, 4e9)


@pytest.mark.parametrize("mtime", [-(2**40), 0, 1_699_999_999, 1_700_000_000, 1_700_000_005])
def test_an_mtime_in_the_past_or_now_never_expires(mtime: int) -> None:
    """An mtime of up to five seconds ahead counts as now, and never expires."""
    assert expiration_for_mtime(mtime, NOW) is None


@pytest.mark.parametrize("mtime", [1_700_000_006, 1_700_000_030, 1_700_000_060, 2**53 + 1, 2**63])
def test_an_mtime_kv_cannot_keep_is_refused(mtime: int) -> None:
    """An mtime less than 60 seconds ahead, or beyond what JSON can hold, is refused."""
    with pytest.raises(InvalidError):
        expiration_for_mtime(mtime, NOW)


@pytest.mark.parametrize("mtime", [1_700_000_061, 1_800_000_000, 2**32, 2**53])
def test_an_mtime_in_the_future_is_the_expiration(mtime: int) -> None:
    """An mtime from 60 seconds ahead on is the expiration, and shows as mtime again."""
    assert expiration_for_mtime(mtime, NOW) == mtime
    assert mtime_of(mtime, 5) == mtime * 10**9


def test_exactly_the_floor_is_enough() -> None:
    """Sixty seconds are not less than sixty."""
    assert expiration_for_mtime(1_700_000_060, 1_700_000_000.0) == 1_700_000_060
    assert expiration_for_mtime(1_700_000_005, 1_700_000_000.0) is None


def test_what_never_expires_shows_when_it_changed() -> None:
    """A file that never expires shows its time of change to the nanosecond, also before 1970."""
    assert [mtime_of(None, ns) for ns in (1_700_000_000_400_000_001, -1)] == [1_700_000_000_400_000_001, -1]


def test_a_key_is_gone_at_its_expiration() -> None:
    """A key is gone at the second of its expiration; without an expiration it never goes."""
    assert not is_expired(100, 99.999)
    assert is_expired(100, 100.0)
    assert is_expired(100, 1e12)
    assert not is_expired(None, 1e12)


@pytest.mark.parametrize(
    ("remaining", "sent"),
    [(3600, 3600), (66, 66), (65, 65), (64, 65), (60, 65), (30, 65), (1, 65), (0, EXPIRED), (-5, EXPIRED)],
)
def test_a_write_that_waited_is_sent_with_the_floor(remaining: int, sent: object) -> None:
    """A write that waited is sent with at least the floor, or the server would refuse it, and never after its time."""
    answer = expiration_to_send(1000 + remaining, 1000.0)
    assert answer == (1000 + sent if isinstance(sent, int) else sent)


def test_the_floor_is_counted_in_whole_seconds_from_the_next_one() -> None:
    """The floor is counted from the next whole second, so the part of a second that has passed is not taken off."""
    assert expiration_to_send(1030, 1000.4) == 1066


def test_a_write_that_never_expires_is_sent_so() -> None:
    """A write that never expires is sent without an expiration, because None is not a time that has passed."""
    assert expiration_to_send(None, NOW) is None


@given(SECONDS, CLOCK, st.floats(0, 200_000))
def test_what_is_accepted_can_be_sent_or_has_passed(ahead: int, now: float, wait: float) -> None:
    """An expiration once accepted is sent unchanged or later, at least 60 s ahead, until it has passed."""
    try:
        expiration = expiration_for_mtime(int(now) + ahead, now)
    except InvalidError:
        assert 5 < int(now) + ahead - now < 60
        return
    sent = expiration_to_send(expiration, now + wait)
    if expiration is None:
        assert sent is None
    elif is_expired(expiration, now + wait):
        assert sent is EXPIRED
    else:
        assert isinstance(sent, int)
        assert sent >= expiration
        assert sent - (now + wait) >= 60
        assert sent == expiration or sent - (now + wait) <= 66
