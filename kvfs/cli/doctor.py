"""`kvfs doctor`: looks on this machine for anything that stops a mount or makes it costly, and says how to mend it."""

import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final, Literal

import click

from kvfs import __version__
from kvfs.cli.exits import Exit
from kvfs.cli.options import STATE_DIR, option
from kvfs.cli.output import counted, say, size_text
from kvfs.cli.premount import FUSE_CONF, check_device, check_pyfuse3, user_allow_other
from kvfs.cli.unsent import UnsentSource, kept_sources
from kvfs.config import base_url_of, parse_base_url
from kvfs.core.errors import KvfsError, UserError
from kvfs.daemon.sweep import DAY, leftovers
from kvfs.history.shelf import free_needed
from kvfs.host.credentials import TOKEN_PAGE, VARIABLES, find_credentials, systemd_file
from kvfs.host.mounts import current_mounts, fusermount, is_stale
from kvfs.host.sources import HISTORY
from kvfs.host.state import private_directory
from kvfs.host.token_file import read_token_file
from kvfs.journal.worth import Worth
from kvfs.settings import PATH

REQUEST_TIMEOUTS: Final = ("default_request_timeout", "max_request_timeout")
SHORTEST_TIMEOUT: Final = 60  # the kernel's bound must lie well above ours (30 s), or it ends the mount first
LOW_DISK: Final = 1024**3
MARKS: Final = {"ok": "ok  ", "note": "note", "warn": "warn", "fail": "FAIL"}


@dataclass(frozen=True, slots=True)
class Symptom:
    """One finding. `fail` stops a mount, `warn` costs or endangers something."""

    level: Literal["ok", "note", "warn", "fail"]
    text: str


@click.command()
@option(PATH, "token-file", "Check this token file too.")
@click.option("--online", "source", metavar="SOURCE", help="Check this account too; nothing is written.")
@STATE_DIR
def doctor(token_file: Path | None, source: str | None, state: Path) -> int:
    """Check whether kvfs can work on this machine. The exit status is 1 if something stops it."""
    findings = [
        *versions(),
        *fuse(),
        *kernel_timeouts(Path("/proc/sys/fs/fuse")),
        *updatedb(Path("/etc/updatedb.conf")),
        *credentials(os.environ, token_file),
        *state_place(state),
        *stale_mounts(),
        *undo(state),
        *unsent(state),
        *kept(state),
    ]
    if source is not None:
        from kvfs.cli.online import online  # brings the client of the API along

        looks = online(source, token_file, state)
        findings += [Symptom(one.level, one.text) for one in looks]
    for finding in findings:
        say(f"{MARKS[finding.level]}  {finding.text}")
    return Exit.FAILED if any(finding.level == "fail" for finding in findings) else Exit.OK


def versions() -> Iterator[Symptom]:
    """Report the programs and libraries that take part."""
    yield Symptom("ok", f"kvfs {__version__}, Python {platform.python_version()}, Linux {platform.release()}")
    try:
        check_pyfuse3(load=True)
        yield Symptom("ok", f"pyfuse3 {metadata.version('pyfuse3')}, trio {metadata.version('trio')}")
    except KvfsError as exc:
        yield Symptom("fail", str(exc))


def fuse() -> Iterator[Symptom]:
    """Report the device of FUSE, its helper, and what they allow."""
    yield _tried(check_device, "/dev/fuse can be opened")
    yield _tried(fusermount, f"fusermount3 {_fusermount_version()}")
    if os.geteuid() != 0:
        allowed = user_allow_other(FUSE_CONF)
        yield Symptom("note", f"--allow-other is {'possible' if allowed else 'switched off'} in {FUSE_CONF}")


def _fusermount_version() -> str:
    try:
        done = subprocess.run([fusermount(), "-V"], capture_output=True, text=True)
    except (KvfsError, OSError):
        return "is missing"
    return done.stdout.strip().rpartition(" ")[2]


def _tried(check: Callable[[], object], good: str) -> Symptom:
    try:
        check()
    except KvfsError as exc:
        return Symptom("fail", str(exc))
    return Symptom("ok", good)


def kernel_timeouts(directory: Path) -> Iterator[Symptom]:
    """Warn of a kernel's bound on slow daemons that is too short, because it ends a healthy mount."""
    for name in REQUEST_TIMEOUTS:
        try:
            seconds = int((directory / name).read_text())
        except (OSError, ValueError):
            continue
        if 0 < seconds < SHORTEST_TIMEOUT:
            advice = f"the kernel ends mounts that take {seconds} s: sudo sysctl fs.fuse.{name}=0"
            yield Symptom("warn", f"{advice}, or keep --timeout well below it")


def updatedb(configuration: Path) -> Iterator[Symptom]:
    """Warn of `updatedb` if it walks mounts, because here that is requests and money."""
    try:
        found = re.search(r'^\s*PRUNEFS\s*=\s*"([^"]*)"', configuration.read_text(), re.MULTILINE)
    except OSError:
        return
    if found is None or "fuse.kvfs" not in found[1].lower().split():
        yield Symptom("warn", f"updatedb would list every key: add fuse.kvfs to PRUNEFS in {configuration}")
    else:
        yield Symptom("ok", "updatedb leaves kvfs mounts out")


def credentials(environ: Mapping[str, str], token_file: Path | None) -> Iterator[Symptom]:
    """Report where a Cloudflare source would find its token. It sends nothing."""
    if token_file is not None:
        yield _tried(lambda: read_token_file(token_file), f"token file {token_file} can be used")
    elif command := environ.get("KVFS_TOKEN_COMMAND", "").strip():
        yield Symptom("ok", f"the token comes from the command {command.split()[0]}")
    elif any(environ.get(name, "").strip() for name in VARIABLES[:2]):
        name = next(name for name in VARIABLES if environ.get(name, "").strip())
        yield _tried(lambda: find_credentials(environ, None, None), f"{name} is set")
    elif (file := systemd_file(environ)) is not None:
        yield _tried(lambda: read_token_file(file, forbidden=0o007), f"systemd gives the token {file}")
    else:
        yield Symptom("note", f"CLOUDFLARE_API_TOKEN is not set: only local: can be mounted ({TOKEN_PAGE})")
    if not environ.get("CLOUDFLARE_ACCOUNT_ID", "").strip():
        text = (
            "CLOUDFLARE_ACCOUNT_ID is not set: a token of one account finds it, else write cloudflare:ACCOUNT"
        )
        yield Symptom("note", text)
    try:
        base_url = base_url_of(environ)
    except UserError as exc:
        yield Symptom("fail", str(exc))
        return
    yield _tried(lambda: parse_base_url(base_url, insecure=True), f"requests go to {base_url}")


def state_place(directory: Path) -> Iterator[Symptom]:
    """Report the place of the journal."""
    yield _tried(lambda: private_directory(directory), f"state is kept in {directory}")
    if directory.exists() and (free := shutil.disk_usage(directory).free) < LOW_DISK:
        yield Symptom("warn", f"only {size_text(free)} free for the journal in {directory}")


def undo(directory: Path) -> Iterator[Symptom]:
    """Report the history of what was overwritten and deleted, and whether the disk has room for it."""
    found = list((directory / "sources").glob(f"*/{HISTORY}"))
    size = sum(file.stat().st_size for one in found for file in one.rglob("*") if file.is_file())
    if found:
        yield Symptom("ok", f"{size_text(size)} of what was overwritten or deleted is kept (kvfs history)")
        disk = shutil.disk_usage(directory)
        if disk.free < (needed := free_needed(disk.total)):
            text = (
                f"less than {size_text(needed)} is free in {directory}: nothing more is kept for kvfs restore"
            )
            yield Symptom("warn", text)


def unsent(directory: Path) -> Iterator[Symptom]:
    """Report the changes of sources that are not mounted: nothing sends them until they are."""
    for kept in kept_sources(directory):
        what = kept.error or _unsent_words(kept)
        yield Symptom("warn", f"{kept.record.source} is not mounted, and {what}: {kept.command}")


def _unsent_words(kept: UnsentSource) -> str:
    """Return a text like `3 changes are not at the server (1 rejected), 1 conflict is open`."""
    words = []
    if count := len(kept.pending) + len(kept.rejected):
        rejected = f" ({len(kept.rejected)} rejected)" if kept.rejected else ""
        words.append(f"{counted(count, 'change is', 'changes are')} not at the server{rejected}")
    if count := len(kept.conflicts):
        words.append(f"{counted(count, 'conflict is', 'conflicts are')} open")
    return ", ".join(words)


def kept(directory: Path) -> Iterator[Symptom]:
    """Report what this machine keeps of sources that are not mounted, and when it goes."""
    for one in leftovers(directory, time.time()):
        if one.goes_in is None:
            continue  # changes are told by `unsent`
        what = (
            "nothing but its name" if one.worth is Worth.NOTHING else "modes, times, directories or history"
        )
        days = max(0.0, one.goes_in) / DAY
        place = f" (last on {one.mountpoint})" if one.mountpoint else ""
        text = f"{one.source}{place}: {what} kept in {one.journal.parent}; goes after {days:.0f} days without a mount"
        yield Symptom("note", text)


def stale_mounts() -> Iterator[Symptom]:
    """Report mounts whose daemon has died."""
    for mount in current_mounts():
        if mount.is_kvfs and is_stale(mount.mountpoint):
            yield Symptom(
                "warn", f"the daemon of {mount.mountpoint} has died: kvfs umount {mount.mountpoint}"
            )
