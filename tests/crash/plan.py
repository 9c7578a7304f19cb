"""The plan of a run of the harness, the faults of the server meanwhile, and the report of the run."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import msgspec
from crash.lane import Violation

from kvfs.server.fault_words import parse_faults

Rule = dict[str, Any]

LANES = ("left", "right")
TOO_MANY = 0.3  # at this share of kills nothing may have been pending

LATENCY: Rule = {"fault": "latency", "seconds": 0.02, "path": "/bulk"}
"""So that kills meet requests on their way."""
MIXED: list[Rule] = [
    {"fault": "status", "status": 500, "probability": 0.05},
    {"fault": "status", "status": 503, "probability": 0.03},
    {"fault": "status", "status": 429, "retry_after": 0.05, "probability": 0.03},
    {"fault": "reset", "probability": 0.05},
    {"fault": "lost_ack", "probability": 0.05},
    {"fault": "truncate", "probability": 0.03},
    {"fault": "html", "probability": 0.02},
    # not of raw values: those may be any bytes, and nobody can tell
    {"fault": "garbage", "path": "/(bulk|keys|bulk/get|bulk/delete)$", "probability": 0.02},
    {"fault": "torn_bulk", "probability": 0.08},
    {"fault": "stall", "seconds": 0.2, "probability": 0.01},
]
"""Some 30 % of all requests meet one of these."""


def rules_of(words: str) -> list[Rule]:
    """Return the rules that `kvfs serve --faults` would make of its words, in the form of its control."""
    found: list[Rule] = msgspec.to_builtins([armed.rule for armed in parse_faults(words).armed])
    return found


@dataclass(frozen=True)
class Plan:
    """One run. `stale` is how many seconds old the server's answers may be; `plant` is a bug of `shim.PLANTS`."""

    kills: int = 100
    faults: bool = False
    words: str = ""
    """Words of `kvfs serve --faults`, in the place of `MIXED`."""
    stale: float = 0.0
    seed: int = 0
    plant: str | None = None
    seconds: float = float("inf")
    deep: float = 0.5
    """How often everything is sent and compared."""
    lost: float = 0.0
    """How many of the writes are done without an answer."""
    write_back: tuple[float, ...] = (0, 0.02, 0.1, 0.4, 1.0)
    """Seconds; each daemon has one of them."""
    latency: float = 0.02
    """Seconds that a bulk request takes."""
    births: bool = False
    """Whether to begin with deaths while a new journal is made."""

    @property
    def staleness(self) -> float:
        """Return how many seconds old an answer may be, by either option."""
        return max(self.stale, parse_faults(self.words).stale_seconds())

    def rules(self) -> list[Rule]:
        """Return the rules for the faults of the server."""
        chosen = rules_of(self.words) if self.words else MIXED
        rules = [*(chosen if self.faults else []), {**LATENCY, "seconds": self.latency}]
        if self.lost:
            rules.append({"fault": "lost_ack", "path": "/bulk(/delete)?$", "probability": self.lost})
        if self.stale:
            stale = {"fault": "stale", "seconds": self.stale}
            rules += [{**stale, "method": "GET"}, {**stale, "method": "POST", "path": "/bulk/get"}]
        return rules


@dataclass
class Report:
    """The counts of a run. `idle` are kills with nothing pending, `busy` those at which a lane had something."""

    kills: int = 0
    births: int = 0
    idle: int = 0
    pending: int = 0
    promised: int = 0
    drained: int = 0
    seconds: float = 0.0
    statements: int = 0
    early: int = 0
    points: str = ""
    busy: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)

    def judge(self) -> None:
        """Raise `Violation` for a run in which little was at stake, because it shows nothing."""
        if self.idle > TOO_MANY * self.kills:
            raise Violation(f"nothing was pending at {self.idle} of {self.kills} kills")
        for lane in LANES:
            if self.busy[lane] < (1 - TOO_MANY) / 2 * self.kills:
                raise Violation(
                    f"only at {self.busy[lane]} of {self.kills} kills had {lane} anything pending"
                )

    def __str__(self) -> str:
        rate = self.kills / self.seconds if self.seconds else 0.0
        return (
            f"{self.kills} kills in {self.seconds:.0f} s ({rate:.2f}/s): {self.statements} at a statement of the "
            f"journal, {self.early} before the mount was ready, {self.births} more while a journal was made; "
            f"{self.points}; {self.promised} promises; pending at a kill: "
            f"{self.pending / max(1, self.kills):.1f} on average, nothing at {self.idle}, "
            + ", ".join(f"something of {lane} at {count}" for lane, count in sorted(self.busy.items()))
            + f"; everything sent and compared {self.drained} times; operations: "
            + ", ".join(f"{kind} {count}" for kind, count in sorted(self.counts.items()))
        )
