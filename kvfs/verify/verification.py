"""One run: make a scratch namespace, try every assumption in it, and remove it, however the run ends."""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import trio

from kvfs.core.errors import StoreError, UserError
from kvfs.core.prices import dollars
from kvfs.verify import bulk_checks, delays, refusal_checks, value_checks
from kvfs.verify.findings import CHECKS, Check, Finding, Observation
from kvfs.verify.scratch import (
    KEYS,
    ScratchNamespace,
    TellScratch,
    create,
    new_title,
    remove,
    remove_earlier,
    titles_of,
)
from kvfs.verify.setting import prepare
from kvfs.verify.wire import PAUSES, Endpoint, Lab, rows_of

MODULES: Final = (value_checks, bulk_checks, refusal_checks, delays)
"""Their import registers the checks, in this order."""

REQUESTS: Final = 50
COUNTS: Final = {"written": 110, "read": 30, "deleted": 10, "lists": 10}
"""The most that a run takes on an endpoint that answers as kvfs assumes; a stale one is asked a few times more."""

PATIENCE: Final = 75.0  # seconds that a read may be stale, with something to spare
_CLEANING: Final = 30.0  # seconds
_CREATED, _LISTED, _RENAMED = "creating a namespace", "listing namespaces", "renaming a namespace"


@dataclass(slots=True)
class Report:
    """The findings of a run, and its cost."""

    findings: list[Finding] = field(default_factory=list)
    requests: int = 0

    @property
    def differences(self) -> list[Finding]:
        """Return the assumptions that do not hold."""
        return [finding for finding in self.findings if finding.differs]

    @property
    def stale_seconds(self) -> float:
        """Return the longest time that a read stayed stale."""
        fresh = (finding for finding in self.findings if finding.name in delays.TIMED)
        return max((finding.seconds for finding in fresh if finding.seconds is not None), default=0.0)

    @property
    def pair_seconds(self) -> float | None:
        """Return the seconds that a bulk put takes for a pair; None if that is not known."""
        return next((found.seconds for found in self.findings if found.name == bulk_checks.SPEED), None)


def price() -> float:
    """Return the most that a run costs, in dollars, on a paid plan that has used up its allowance."""
    return dollars(COUNTS)


async def verify(
    endpoint: Endpoint,
    *,
    known: Mapping[str, str] | None = None,
    patience: float = PATIENCE,
    told: Callable[[Finding], object] = lambda finding: None,
    removed: TellScratch = lambda scratch: None,
    left: TellScratch = lambda scratch: None,
) -> Report:
    """Try every assumption; `told` hears of each finding as it comes. Raises `UserError` if nothing can be tried.

    `removed` hears of scratch namespaces that earlier runs had left, `left` of those that could not be removed.

    `known`: differences by the name of the check, for an endpoint that may make no namespaces. `patience`: seconds
    that a read may show what was before.
    """
    report = Report()

    def note(name: str, expected: str, seen: Observation) -> None:
        lenient = (known or {}).get(name, "") if seen.holds is False else ""
        report.findings.append(Finding(name, expected, seen.text, seen.holds, seen.seconds, lenient))
        told(report.findings[-1])

    async with _scratch(endpoint, note, removed, left, patience, borrow=known is not None) as lab:
        outcomes: dict[str, Observation] = {}
        await prepare(lab)
        async with trio.open_nursery() as nursery:
            for check in CHECKS:
                nursery.start_soon(_try, check, lab, outcomes)
        for check in CHECKS:
            note(check.name, check.expected, outcomes[check.name])
    report.requests = endpoint.requests
    return report


async def _try(check: Check, lab: Lab, outcomes: dict[str, Observation]) -> None:
    try:
        outcomes[check.name] = await check.run(lab)
    except StoreError as exc:
        outcomes[check.name] = Observation(str(exc), False)


Note = Callable[[str, str, Observation], None]


@asynccontextmanager
async def _scratch(
    endpoint: Endpoint, note: Note, removed: TellScratch, left: TellScratch, patience: float, *, borrow: bool
) -> AsyncIterator[Lab]:
    """Yield a namespace of this run; with `borrow` one that is there, if none can be made. Nothing of the run stays."""
    title = new_title(time.time())
    created, identifier = await create(endpoint, title)
    found = created.result if isinstance(created.result, dict) else {}
    is_told = found.get("title") == title
    note(_CREATED, "answers its id and its title", Observation(str(created), is_told))
    if not identifier:
        if not borrow:
            raise UserError(f"cannot make a scratch namespace: {created}")
        lab = Lab(endpoint, await _any_namespace(endpoint), f"{title}/", patience)
        try:
            yield lab
        finally:
            await _clean(lab)
        return
    try:
        lab = Lab(endpoint, identifier, KEYS, patience)
        titles = await _namespace_checks(lab, title, note)
        await remove_earlier(endpoint, titles, removed=removed, left=left)
        yield lab
    finally:
        await remove(endpoint, ScratchNamespace(identifier, title), left=left)


async def _namespace_checks(lab: Lab, title: str, note: Note) -> dict[str, str]:
    """Check that it can be renamed and is listed; the titles of all namespaces by id."""
    renamed = await lab.endpoint.send("PUT", lab.path(), json={"title": f"{title}-renamed"})
    began, listed = trio.current_time(), await titles_of(lab.endpoint)
    for pause in PAUSES:
        late = trio.current_time() - began > lab.patience
        if late or listed.get(lab.namespace) == f"{title}-renamed":
            break
        await trio.sleep(pause)
        listed = await titles_of(lab.endpoint)
    note(_LISTED, "answers every one in pages", Observation(f"{len(listed)} listed", lab.namespace in listed))
    shown = listed.get(lab.namespace)
    holds = renamed.succeeded and shown == f"{title}-renamed"
    note(_RENAMED, "the new title is answered", Observation(f"{renamed.status}, then {shown!r}", holds))
    return listed


async def _any_namespace(endpoint: Endpoint) -> str:
    """Return a namespace that is there. Raises `UserError` if there is none."""
    for identifier in await titles_of(endpoint):
        return identifier
    raise UserError("there is no namespace to try anything in, and none can be made")


async def _clean(lab: Lab) -> None:
    """Delete what the run has put into a namespace that is not its own."""
    with trio.CancelScope(shield=True), trio.move_on_after(_CLEANING):
        while rows := rows_of(await lab.list(lab.prefix)):
            if (await lab.endpoint.send("POST", lab.path("bulk", "delete"), json=list(rows))).succeeded:
                continue
            for key in rows:
                await lab.delete(key)
