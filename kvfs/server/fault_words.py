"""Reads `--faults`: a list of words, such as `latency=50ms,jitter=10ms,error=503:0.1,lost_ack=0.05,seed=7`.

A word is the name of a fault with its argument; `error` means the fault `status`. `cloudflare` stands for all that
an account does by itself.
"""

from collections.abc import Iterator
from typing import Final

from msgspec.structs import replace

from kvfs.core.errors import InvalidError, UserError
from kvfs.core.measures import parse_duration
from kvfs.server.fault_rules import FAULTS, Faults, Rule

_TIMED: Final = frozenset({"stall", "slow_drip", "stale", "key_rate"})
_COUNTED: Final = frozenset(
    ("rate_budget", "ratelimit", "torn_bulk", "short_bulk", "gzip_bomb", "endless_cursor", "free_plan")
)

WORDS: Final = (
    "latency", "jitter", "error", *(name for name in FAULTS if name not in ("status", "latency")), "cloudflare",
    "seed",
)  # fmt: skip
"""The words that `--faults` understands and that docs/server.md explains."""

CLOUDFLARE: Final = (
    "rate_budget,no_retry_after=0.5,denied=0.005,firewall,url_keys,pair_cost=20ms,stale=60s,"
    "no_bulk_expiration=0.5,null_lists,floats=0.5,unknown_fields=0.5"
)
"""The word `cloudflare`: an account's own behaviour, as far as the public record says."""


def parse_faults(text: str) -> Faults:
    """Return the faults that `text` asks for. Raises `UserError` that names the wrong word.

    `error=STATUS[:PROBABILITY]`, `code=CODE[:STATUS]`, `firewall=TEXT`, `bad_key=KEY`, `stuck_key=KEY`,
    `pair_cost=DURATION[:LIMIT]`; the words of `_TIMED` take `DURATION[:PROBABILITY]`, those of `_COUNTED` may take
    `COUNT[:PROBABILITY]`, the others `PROBABILITY`. A name alone means always. A fault of `cloudflare` is left out
    where `text` names it too.
    """
    seed, jitter = 0, 0.0
    rules: list[Rule] = []
    preset: list[Rule] = []
    for word in filter(None, (word.strip() for word in text.split(","))):
        name, _, value = word.partition("=")
        try:
            if name == "seed":
                seed = int(value)
            elif name == "jitter":
                jitter = parse_duration(value)
            elif name == "cloudflare":
                preset = list(_preset(value))
            else:
                rules.append(_rule(name, value))
        except (InvalidError, ValueError) as exc:
            raise UserError(f"--faults: {word!r}: {exc}") from exc
    named = {rule.fault for rule in rules}
    rules += [rule for rule in preset if rule.fault not in named]
    shaken = (replace(rule, jitter=jitter) if rule.fault == "latency" else rule for rule in rules)
    return Faults(shaken, seed=seed)


def _preset(value: str) -> Iterator[Rule]:
    """Yield the rules of `cloudflare`."""
    if value:
        raise ValueError("cloudflare takes no value: name the fault to change behind it")
    for word in CLOUDFLARE.split(","):
        name, _, argument = word.partition("=")
        yield _rule(name, argument)


def _rule(name: str, value: str) -> Rule:
    argument, _, chance = value.partition(":")
    if name not in (*WORDS, "status"):
        raise ValueError(f"no such fault; there are {', '.join(WORDS)}")
    if name == "latency":
        return Rule("latency", seconds=parse_duration(argument), probability=float(chance or 1))
    if name == "error":
        return Rule("status", status=int(argument), probability=float(chance or 1))
    if name == "code":
        return Rule("code", code=int(argument), status=int(chance) if chance else None)
    if name == "firewall":
        return Rule("firewall", text=value or None)
    if name in ("bad_key", "stuck_key"):
        return Rule(name, key=value)
    if name == "pair_cost" and argument:
        limit = parse_duration(chance) if chance else None
        return Rule("pair_cost", seconds=parse_duration(argument), limit=limit)
    if name in _TIMED and argument:
        return Rule(name, seconds=parse_duration(argument), probability=float(chance or 1))
    if name in _COUNTED and (chance or argument.isdecimal()):
        return Rule(name, count=int(argument), probability=float(chance or 1))
    return Rule(name, probability=float(argument or 1))
