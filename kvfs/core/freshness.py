"""Freshness: for how long an answer of the store may be repeated. The one rule about the age of knowledge.

All times are epoch seconds of the caller's clock. An answer from the future is old, *because* the clock was
set back since then, and nobody can tell by how much.
"""

from typing import Final

NEVER: Final = 0.0
"""The time of an answer that serves on where the store gives none, but has to be asked for anew."""


def is_fresh(known_at: float, ttl: float, now: float) -> bool:
    """Return True if an answer of `known_at` may be repeated: it is younger than `ttl`."""
    return 0 <= now - known_at < ttl


def fresh_until(known_at: float, ttl: float) -> float:
    """Return the time at which an answer of `known_at` gets old."""
    return known_at + ttl


def seconds_left(until: float, ttl: float, now: float, expiration: float | None = None) -> float:
    """Return for how long others may repeat an answer that is fresh until then: 0 to `ttl`.

    They must not show a key beyond its `expiration`.
    """
    end = until if expiration is None else min(until, expiration)
    return max(0.0, min(end - now, ttl))
