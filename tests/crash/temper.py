"""The temper of the soak's server: its faults in a run of so many seconds, and the errors that they explain."""

import errno
from collections.abc import Iterable
from typing import Any, Final

from crash.plan import MIXED, rules_of

Rule = dict[str, Any]

WHOLE: Final = (
    20 * 60.0
)  # seconds of a run that has time for whole windows of five minutes, and a minute's staleness
WINDOW: Final = 300.0  # seconds of the API's window
REQUESTS: Final = 1200  # in one window

NO_ANSWER: Final = frozenset({errno.EIO, errno.ETIMEDOUT})

EXPLAINS: Final[dict[str, frozenset[int]]] = {
    "rate_budget": NO_ANSWER,  # a call waits for its turn up to --timeout, and says why
    "pair_cost": frozenset({errno.ETIMEDOUT}),  # an fsync waits for a body that takes longer
    # the API fails: it is asked again, but not for ever
    "status": NO_ANSWER,
    "reset": NO_ANSWER,
    "lost_ack": NO_ANSWER,
    "truncate": NO_ANSWER,
    "html": NO_ANSWER,
    "garbage": NO_ANSWER,
    "torn_bulk": NO_ANSWER,
    "stall": NO_ANSWER,
}
"""Fault → the errnos that a program may see because of it; a fault that is not here explains none."""


def rules(words: str, seconds: float) -> list[Rule]:
    """Return the rules for a run of so many seconds. Without words they are the mixed ones.

    A window of requests and a staleness take as much of a short run as of `WHOLE`, or a run of minutes would see
    little more than one limit that is used up. The requests of a second stay the same.
    """
    speed = min(1.0, seconds / WHOLE)
    return [_sped(rule, speed) for rule in (rules_of(words) if words else MIXED)]


def _sped(rule: Rule, speed: float) -> Rule:
    if rule["fault"] == "rate_budget":
        seconds, count = rule.get("seconds", WINDOW), rule.get("count", REQUESTS)
        return {**rule, "seconds": seconds * speed, "count": max(1, round(count * speed))}
    if rule["fault"] == "stale":
        return {**rule, "seconds": rule["seconds"] * speed}
    return rule


def staleness(rules: Iterable[Rule]) -> float:
    """Return how many seconds old an answer may be."""
    return max((rule["seconds"] for rule in rules if rule["fault"] == "stale"), default=0.0)


def explained(rules: Iterable[Rule]) -> frozenset[int]:
    """Return the errnos that a program may see with these rules."""
    return frozenset[int]().union(*(EXPLAINS.get(rule["fault"], frozenset()) for rule in rules))


def lifted(rules: Iterable[Rule]) -> list[Rule]:
    """Return the rules without the limit of requests: with it, tidying up would wait for the next window."""
    return [rule for rule in rules if rule["fault"] != "rate_budget"]
