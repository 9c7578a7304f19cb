"""`kvfs verify`: try in a scratch namespace whether an endpoint behaves as kvfs assumes."""

import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import click
import httpx
import trio

import kvfs
from kvfs.cli.asking import confirm
from kvfs.cli.completing import PLACE
from kvfs.cli.exits import Exit
from kvfs.cli.options import STATE_DIR, YES, credential_options, json_option, named_profile
from kvfs.cli.output import complain, say, say_json
from kvfs.cli.own_account import open_account
from kvfs.cli.places import Access
from kvfs.config import CloudflareSource, Source, parse_source
from kvfs.core.errors import UserError
from kvfs.host.endpoints import Learned, save_learned
from kvfs.host.profiles import config_file, settings_of
from kvfs.store.miniflare.explorer import find_api
from kvfs.store.rest.request import namespaces_path
from kvfs.verify.findings import Finding
from kvfs.verify.known_differences import KNOWN
from kvfs.verify.scratch import ScratchNamespace
from kvfs.verify.verification import PATIENCE, REQUESTS, Report, price
from kvfs.verify.verification import verify as try_all
from kvfs.verify.wire import Endpoint
from kvfs.workers import WranglerSource

_TIMEOUT = 130.0  # seconds: a bulk write may take the API a hundred


_OF_PROFILES: Final = {
    "token-file": "token_file",
    "token-command": "token_command",
    "insecure": "insecure",
    "state-dir": "state",
}
"""The options of a profile that count here, and the parameters that they become."""


def _take_profile(ctx: click.Context, _: click.Parameter, profile: str | None) -> str | None:
    """Make the profile's values the defaults of the other options; the rest of the profile is for mounts."""
    if profile:
        settings = settings_of(config_file(os.environ), profile)
        values = settings.values
        ctx.default_map = {into: values[name] for name, into in _OF_PROFILES.items() if name in values}
        ctx.default_map |= {"source": settings.source} if settings.source else {}
    return profile


@click.command()
@click.argument("source", required=False, type=PLACE)
@named_profile(
    "Use SOURCE, token and state directory of this profile.",
    is_eager=True,
    expose_value=False,
    callback=_take_profile,
)
@credential_options
@YES
@json_option("Print one JSON object, to paste into a report.")
@STATE_DIR
def verify(
    source: str | None,
    token_file: Path | None,
    token_command: str | None,
    insecure: bool,
    preview: bool,
    yes: bool,
    as_json: bool,
    state: Path,
) -> int:
    """Test if the API behind SOURCE behaves as kvfs assumes.

    The command makes a scratch namespace and removes it. The exit status is 1 if an assumption does not hold.
    """
    if not source:
        raise UserError("name a SOURCE, or a --profile that has one")
    parsed = parse_source(source, os.environ, insecure=insecure, preview=preview)
    if not isinstance(parsed, CloudflareSource) and not (
        isinstance(parsed, WranglerSource) and parsed.origin
    ):
        raise UserError(
            f"{source} has no API to verify: name cloudflare:ACCOUNT, or wrangler:http://HOST:PORT"
        )
    _ask_first(yes)
    report, base_url = trio.run(_run, parsed, Access(token_file, token_command), as_json)
    _keep(report, base_url, state)
    if as_json:
        say_json(_as_json(report, base_url))
    else:
        _conclude(report)
    return Exit.FAILED if report.differences else Exit.OK


def _ask_first(yes: bool) -> None:
    """Print the price; without `--yes` the user has to agree."""
    complain(
        f"verify makes a scratch namespace and removes it: about {REQUESTS} requests,"
        f" ${price():.4f} on a paid plan that has used up what it includes"
    )
    if not yes:
        confirm("go on?")


async def _run(source: Source, access: Access, quiet: bool) -> tuple[Report, str]:
    def tell(finding: Finding) -> None:
        if not quiet:
            _print(finding)

    found: tuple[Report, str] | None = None
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_at, signals, nursery.cancel_scope)
            async with _opened(source, access) as (client, account):
                known = KNOWN if account is None else None
                endpoint = Endpoint(client, namespaces_path(account))
                patience = PATIENCE if known is None else 2.0  # an endpoint on this machine has one copy
                report = await try_all(
                    endpoint, known=known, patience=patience, told=tell, removed=_removed, left=_left
                )
                found = report, str(client.base_url).rstrip("/")
            nursery.cancel_scope.cancel()
    if found is None:
        raise KeyboardInterrupt
    return found


async def _stop_at(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    """Cancel a run at the first signal. Its shields hold, so that what it made is removed."""
    async for _ in signals:
        complain("stopping: removing the scratch namespace")
        scope.cancel()
        return


def _removed(scratch: ScratchNamespace) -> None:
    complain(f"removed {scratch.title}, which an earlier run had left")


def _left(scratch: ScratchNamespace) -> None:
    complain(
        f"the scratch namespace {scratch.title} could not be removed and is left:"
        f" npx wrangler kv namespace delete --namespace-id {scratch.id}"
        " removes it; so does a kvfs verify in an hour or later, if nothing else is in it"
    )


@asynccontextmanager
async def _opened(source: Source, access: Access) -> AsyncIterator[tuple[httpx.AsyncClient, str | None]]:
    """Open a client for the source, and return its account; None for wrangler's local explorer, which has none."""
    if isinstance(source, CloudflareSource):
        async with open_account(source, access.token_file, access.token_command, _TIMEOUT) as opened:
            yield opened
        return
    assert isinstance(source, WranglerSource)
    base = await find_api(source.origin)
    if base is None:
        raise UserError(f"no `wrangler dev` with a local explorer answers at {source.origin}")
    async with httpx.AsyncClient(base_url=base, timeout=_TIMEOUT, trust_env=False) as client:
        yield client, None


def _print(finding: Finding) -> None:
    mark = {True: "ok   ", False: "WRONG", None: "note "}[finding.holds]
    if finding.known:
        mark = "known"
    say(f"{mark} {finding.name}: {finding.seen}")
    if finding.holds is False:
        say(f"      expected: {finding.expected}")
    if finding.known:
        say(f"      {finding.known}")


def _conclude(report: Report) -> None:
    held = sum(1 for finding in report.findings if finding.holds)
    known = sum(1 for finding in report.findings if finding.known)
    say(
        f"{held} as expected, {known} known differences, {len(report.differences)} wrong; {report.requests} requests"
    )


def _keep(report: Report, base_url: str, state_dir: Path) -> None:
    """Save the findings that later mounts of the endpoint use."""
    differences = tuple(finding.name for finding in report.differences)
    learned = Learned(base_url, time.time(), report.stale_seconds, report.pair_seconds, differences)
    save_learned(learned, state_dir)


def _as_json(report: Report, base_url: str) -> dict[str, Any]:
    findings = [
        {
            "name": finding.name,
            "expected": finding.expected,
            "seen": finding.seen,
            "holds": finding.holds,
            "known": finding.known or None,
        }
        for finding in report.findings
    ]
    return {
        "kvfs": kvfs.__version__,
        "base_url": base_url,
        "requests": report.requests,
        "stale_seconds": round(report.stale_seconds, 1),
        "pair_seconds": report.pair_seconds,
        "wrong": len(report.differences),
        "findings": findings,
    }
