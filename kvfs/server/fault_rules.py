"""Which request meets which fault: rules by name, seeded, so that a run can be repeated. What a fault does is
in `faults.py`.

    fault           what happens to a request that the rule picks (with its fields)
    status          is refused with `status` (500), `code`, `retry_after` seconds
    garbage         is answered with something that is not JSON
    html            is answered with a page, as by a proxy (`status`, 502)
    truncate        takes effect; half of the answer arrives
    reset           dies without effect or answer
    stall           waits `seconds` (for ever) and gets no answer
    latency         waits `seconds` ± `jitter`, then goes on
    slow_drip       takes effect; the answer comes a byte each `seconds` (1)
    lost_ack        takes effect, then the connection dies
    torn_bulk       `count` of its keys (half) are left alone and reported as unsuccessful
    quota           is refused with 10048 (`status`, 429)
    key_rate        writes of a key within `seconds` (1) after its last write: 429, in a bulk unsuccessful
    rate_budget     is counted: above `count` (1,200) in `seconds` (300) everything is 429 for as long
    gzip_bomb       is answered with `count` MiB (1,024) of compressed zeros
    redirect        is sent to `location`
    endless_cursor  a listing never ends; its cursors repeat after `count` (0: never)
    stale           reads answer as of up to `seconds` (60) ago
"""

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

import msgspec

from kvfs.core.errors import UserError

FaultName = Literal[
    "status",
    "garbage",
    "html",
    "truncate",
    "reset",
    "stall",
    "latency",
    "slow_drip",
    "lost_ack",
    "torn_bulk",
    "quota",
    "key_rate",
    "rate_budget",
    "gzip_bomb",
    "redirect",
    "endless_cursor",
    "stale",
]

STALE_SECONDS: Final = 60.0
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "": 1.0}
_TIMED: Final = frozenset({"stall", "slow_drip", "stale", "key_rate"})
_COUNTED: Final = frozenset({"rate_budget", "torn_bulk", "gzip_bomb", "endless_cursor"})

WORDS: Final = (
    "latency", "jitter", "error", *(name for name in get_args(FaultName) if name not in ("status", "latency")),
    "seed",
)  # fmt: skip
"""What `--faults` understands, and docs/server.md explains."""


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One rule. `method` and `path` are patterns that must be found in the request's (path still encoded).

    The first `after` requests that fit are spared, then each is picked with `probability`, at most `times`.
    """

    fault: FaultName
    method: str | None = None
    path: str | None = None
    probability: float = 1.0
    times: int | None = None
    after: int = 0
    status: int | None = None
    code: int | None = None
    retry_after: float | None = None
    seconds: float | None = None
    jitter: float = 0.0
    count: int | None = None
    location: str | None = None

    def __post_init__(self) -> None:
        for pattern in (self.method, self.path):
            re.compile(pattern or "")  # re.error is a ValueError's cousin: see Faults.decode
        if not 0 <= self.probability <= 1:
            raise ValueError("probability must be between 0 and 1")
        if self.status is not None and not 200 <= self.status <= 599:
            raise ValueError("status must be between 200 and 599")
        if any(number is not None and number < 0 for number in (self.seconds, self.count, self.jitter)):
            raise ValueError("seconds, jitter and count must not be negative")


@dataclass(slots=True)
class Armed:
    """A rule at work: its own random numbers, how many requests fitted, how many it picked."""

    rule: Rule
    random: random.Random
    seen: int = 0
    fired: int = 0
    budget: dict[str, float] = field(default_factory=dict)

    def picks(self, method: str, path: str) -> bool:
        """Whether this request is one; each call counts."""
        rule = self.rule
        if not (re.search(rule.method or "", method) and re.search(rule.path or "", path)):
            return False
        self.seen += 1
        if self.seen <= rule.after or (rule.times is not None and self.fired >= rule.times):
            return False
        picked = self.random.random() < rule.probability
        self.fired += picked
        return picked


class Faults:
    """The rules in force. The same seed and the same requests in the same order meet the same faults."""

    def __init__(self, rules: Iterable[Rule] = (), *, seed: int = 0) -> None:
        self.seed = seed
        self.armed: list[Armed] = []
        self.replace(rules)

    def __repr__(self) -> str:
        return f"<Faults seed={self.seed} {[armed.rule.fault for armed in self.armed]}>"

    def replace(self, rules: Iterable[Rule]) -> None:
        """Forget the old rules and their counts."""
        self.armed = [
            Armed(rule, random.Random(f"{self.seed}:{place}:{rule.fault}"))
            for place, rule in enumerate(rules)
        ]

    def fire(self, method: str, path: str) -> list[Armed]:
        """The rules that pick this request, in their order."""
        return [armed for armed in self.armed if armed.picks(method, path)]

    def stale_seconds(self) -> float:
        """How far back a stale answer may go; 0 when none is asked for."""
        stale = (armed.rule for armed in self.armed if armed.rule.fault == "stale")
        return max((STALE_SECONDS if rule.seconds is None else rule.seconds for rule in stale), default=0.0)

    @staticmethod
    def decode(body: bytes) -> list[Rule]:
        """Rules from a JSON list. Raises `ValueError` that says what is wrong."""
        try:
            return msgspec.json.decode(body, type=list[Rule])
        except (re.error, msgspec.MsgspecError) as exc:
            raise ValueError(str(exc)) from exc

    @classmethod
    def parse(cls, text: str) -> "Faults":
        """Faults from the command line: `latency=50ms,jitter=10ms,error=503:0.1,lost_ack=0.05,seed=7`.

        `error=STATUS[:PROBABILITY]`; `stall`, `slow_drip`, `stale` and `key_rate` take
        `DURATION[:PROBABILITY]`, and `rate_budget`, `torn_bulk`, `gzip_bomb` and `endless_cursor` may take
        `COUNT[:PROBABILITY]`; the others `PROBABILITY`. A name alone means always. Raises `UserError`.
        """
        seed, rules, jitter = 0, [], 0.0
        for word in filter(None, (word.strip() for word in text.split(","))):
            name, _, value = word.partition("=")
            try:
                if name == "seed":
                    seed = int(value)
                elif name == "jitter":
                    jitter = _seconds(value)
                else:
                    rules.append(_rule(name, value))
            except ValueError as exc:
                raise UserError(f"--faults: {word!r}: {exc}") from exc
        return cls((_jittery(rule, jitter) for rule in rules), seed=seed)


def _rule(name: str, value: str) -> Rule:
    argument, _, chance = value.partition(":")
    if name == "latency":
        return Rule("latency", seconds=_seconds(argument), probability=float(chance or 1))
    if name == "error":
        return Rule("status", status=int(argument), probability=float(chance or 1))
    if name in _TIMED and argument:
        return Rule(_fault(name), seconds=_seconds(argument), probability=float(chance or 1))
    if name in _COUNTED and (chance or argument.isdecimal()):
        return Rule(_fault(name), count=int(argument), probability=float(chance or 1))
    return Rule(_fault(name), probability=float(argument or 1))


def _fault(name: str) -> FaultName:
    for known in get_args(FaultName):
        if known == name:
            found: FaultName = known
            return found
    raise ValueError(f"no such fault; there are {', '.join(WORDS)}")


def _jittery(rule: Rule, jitter: float) -> Rule:
    return msgspec.structs.replace(rule, jitter=jitter) if rule.fault == "latency" else rule


def _seconds(text: str) -> float:
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|)", text)
    if found is None:
        raise ValueError("a duration looks like 50ms, 1.5s or 2m")
    return float(found[1]) * _UNITS[found[2]]
