"""The rules of faults: which request meets which fault. They are seeded, so that a run can be repeated.

`fault_words.py` reads them from the command line. What a fault does is in `faults.py`, `moods.py` and `odd_shapes.py`.
"""

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import msgspec

FAULTS: Final = {
    "status": "is refused with `status` (500), `code`, `retry_after` seconds",
    "garbage": "is answered with something that is not JSON",
    "html": "is answered with a page, as by a proxy (`status`, 502)",
    "truncate": "takes effect; half of the answer arrives",
    "reset": "dies without effect or answer",
    "stall": "waits `seconds` (for ever) and gets no answer",
    "latency": "waits `seconds` ± `jitter`, then goes on",
    "slow_drip": "takes effect; the answer comes a byte each `seconds` (1)",
    "lost_ack": "takes effect, then the connection dies",
    "torn_bulk": "`count` of its keys (half) are left alone and reported as unsuccessful",
    "short_bulk": "`count` of its keys (half) are left alone, not counted, and not reported",
    "quota": "is refused with 10048 (`status`, 429)",
    "free_plan": (
        "is counted: above `count` (1,000) keys written, deleted or listed, or 100 times as many read, "
        "that operation is refused with 10048 until the rules are replaced"
    ),
    "key_rate": "writes of a key within `seconds` (1) after its last write: 429, in a bulk unsuccessful",
    "rate_budget": "is counted: above `count` (1,200) in `seconds` (300) everything is 429 for as long",
    "ratelimit": "is counted in the same way, and the headers say it, but nothing is refused",
    "no_retry_after": "a refusal does not say when to try again",
    "gzip_bomb": "is answered with `count` MiB (1,024) of compressed zeros",
    "redirect": "is sent to `location`",
    "endless_cursor": "a listing never ends; its cursors repeat after `count` (0: never)",
    "stale": "reads answer as of up to `seconds` (60) ago",
    "firewall": "is refused with 403 and a page if its body, key or query contains `text`",
    "pair_cost": (
        "a bulk write takes `seconds` (0.02) for each pair; after `limit` (100) seconds the answer is "
        "524 and a page, and the writing goes on"
    ),
    "denied": "is refused in passing, with 401 and 10000 or with 403 and 10001 (`status`, `code`)",
    "code": "is refused with `code`, and the `status` that belongs to it",
    "bad_key": "reads of the key named `key` are answered with a page (`status`, 500), alone or in bulk",
    "stuck_key": "reads of the key named `key` wait `seconds` (for ever), alone or in bulk, and then go on",
    "url_keys": "a key in the URL with a control character, `^` or `...` is not found",
    "null_lists": "an empty list is null",
    "floats": "numbers of the envelope are floats",
    "digits": "numbers of the envelope are strings of digits",
    "bare_bulk": "a bulk get answers with values alone, although metadata was asked for",
    "no_bulk_expiration": "a bulk get answers without expirations",
    "odd_rows": "lists have rows that are none, and one entry of a bulk get has no value",
    "plain_namespaces": "a namespace has an id and a title, and nothing else",
    "unknown_fields": "every object of the envelope has a field that nobody knows",
}
"""By name: the fate of a request that a rule of it picks. Words in backquotes are fields of the rule, with defaults."""
STALE_SECONDS: Final = 60.0
FIREWALL_TEXT: Final = "UNION SELECT"


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One rule. `method` and `path` are patterns that must be found in the request's (path still encoded).

    The first `after` requests that fit are spared, then each is picked with `probability`, at most `times`.
    """

    fault: str
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
    limit: float | None = None
    text: str | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        if self.fault not in FAULTS:
            raise ValueError(f"{self.fault!r} is no fault")
        for pattern in (self.method, self.path):
            re.compile(pattern or "")  # re.error is a ValueError's cousin: see Faults.decode
        if not 0 <= self.probability <= 1:
            raise ValueError("probability must be between 0 and 1")
        if self.status is not None and not 200 <= self.status <= 599:
            raise ValueError("status must be between 200 and 599")
        if any(n is not None and n < 0 for n in (self.seconds, self.count, self.jitter, self.limit)):
            raise ValueError("seconds, jitter, count and limit must not be negative")
        if self.fault in ("bad_key", "stuck_key") and not self.key:
            raise ValueError(f"{self.fault} needs a `key`")
        if self.fault == "code" and self.code is None:
            raise ValueError("code needs a `code`")
        if self.text == "":
            raise ValueError("text must not be empty")


@dataclass(slots=True)
class Armed:
    """A rule at work: its own random numbers, how many requests fitted, how many it picked."""

    rule: Rule
    random: random.Random
    seen: int = 0
    fired: int = 0
    budget: dict[str, float] = field(default_factory=dict)

    def picks(self, method: str, path: str) -> bool:
        """Return whether this request is one; each call counts."""
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
        """Return the rules that pick this request, in their order."""
        return [armed for armed in self.armed if armed.picks(method, path)]

    def stale_seconds(self) -> float:
        """Return the greatest age of a stale answer; 0 when none is asked for."""
        stale = (armed.rule for armed in self.armed if armed.rule.fault == "stale")
        return max((STALE_SECONDS if rule.seconds is None else rule.seconds for rule in stale), default=0.0)

    @staticmethod
    def decode(body: bytes) -> list[Rule]:
        """Parse rules of a JSON list. Raises `ValueError` that says what is wrong and which words there are."""
        try:
            return msgspec.json.decode(body, type=list[Rule])
        except (re.error, msgspec.MsgspecError) as exc:
            fields = ", ".join(Rule.__struct_fields__)
            raise ValueError(
                f"{exc}; the body is a JSON list of rules, or a text as --faults takes it;"
                f" the fields of a rule are {fields}; the faults are {', '.join(FAULTS)}"
            ) from exc
