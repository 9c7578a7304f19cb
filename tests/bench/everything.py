"""`scripts/bench run`: everything under test, built, measured, written down, and gone again."""

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bench import cpu, page
from bench.clients import Sdk
from bench.filesystems import Disk, Kvfs, Memory
from bench.machine import machine
from bench.material import make
from bench.rclone import MODES, Rclone, has_pacer_option
from bench.relay import relaying
from bench.report import Report, rows
from bench.suite import Suite
from bench.workloads import FILE_WORK, Subject, phases_of
from bench.wrangler import Wrangler, find_wrangler
from support.serving import served_by_process

DELAYS = (0.0, 0.05)
FILES, QUICK_FILES = 500, 50
ROUNDS, MINUTES = 5, 20.0
FLOOR_SECONDS = 40.0
KINDS = ("kvfs", "rclone", "sdk", "wrangler", "memfs", "ext4")
SDK_MODES = ("singly", "threads", "bulk")


_PACED = (
    "This rclone leaves at least 10 ms between the requests to a WebDAV server and has no option not to (newer ones "
    "have): it never makes more than a hundred a second, however many files it uploads at once. That holds its "
    "`cp -r` at any delay, and everything without delay."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Words of the command line."""
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_FILES} files, one round: three minutes")
    parser.add_argument("--files", type=int, help=f"small files ({FILES})")
    parser.add_argument("--rounds", type=int, help=f"at most ({ROUNDS})")
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help=f"what is quick is repeated until then ({MINUTES:g})"
    )
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS), help="what is measured")
    parser.add_argument(
        "--sdk", nargs="+", choices=SDK_MODES, default=list(SDK_MODES), help="the scripts over the SDK"
    )
    parser.add_argument("--delays", nargs="+", type=float, default=list(DELAYS), help="seconds (0 0.05)")
    parser.add_argument(
        "--workloads", nargs="+", choices=list(FILE_WORK), default=[], metavar="NAME", help="only these"
    )
    parser.add_argument("--cpu-files", type=int, help="small files of a round of `cpu` (1500)")
    parser.add_argument("--no-cpu", action="store_true", help="without the distance to the floor")


def run(words: argparse.Namespace, directory: Path, out: Path) -> int:
    """Return 1 when something did not do its work. Being behind is not a failure: the page tells it."""
    deadline = time.monotonic() + words.minutes * 60
    n = words.files or (QUICK_FILES if words.quick else FILES)
    floor = [] if words.no_cpu else _floor(words, directory)
    notes: list[str] = []
    with ExitStack() as stack:
        material = make(directory / "material", n)
        suite = Suite(material, [], directory, tell=_tell, phases=phases_of(words.workloads))
        suite.subjects = _subjects(words, stack, suite, notes)
        rounds = suite.run(words.rounds or (1 if words.quick else ROUNDS), deadline)
        tools = [
            ["rclone", "version"],
            ["node", "--version"],
            *([[w, "--version"]] if (w := find_wrangler()) else []),
        ]
        how = page.Setting(n, rounds, machine([tool for tool in tools if shutil.which(tool[0])]), notes)
        notes += [f"Not measured: {problem}" for problem in suite.problems]
        page.write(out, Report(rows(suite.found), words.delays), floor, suite.subjects, how)
    _tell(f"written to {out}/results.md")
    return int(bool(suite.problems))


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


def _floor(words: argparse.Namespace, directory: Path) -> list[cpu.Row]:
    seconds, n = (1.0, 100) if words.quick else (FLOOR_SECONDS, 1500)
    return cpu.rows(cpu.run(directory / "floor", n=words.cpu_files or n, seconds=seconds))


def _subjects(
    words: argparse.Namespace, stack: ExitStack, suite: Suite, notes: list[str]
) -> Sequence[Subject]:
    material, only = suite.material, set(words.only)
    found: list[Subject] = []
    (suite.directory / "server").mkdir()
    served = stack.enter_context(served_by_process(suite.directory / "server"))
    rclone, wrangler = shutil.which("rclone"), find_wrangler()
    if "rclone" in only and not rclone:
        notes.append("Not measured: rclone: it is not installed")
    if "rclone" in only and rclone and not has_pacer_option():
        notes.append(_PACED)
    if "wrangler" in only and not wrangler:
        notes.append("Not measured: wrangler: Node or its registry is not at hand")
    for delay in words.delays:
        relay = stack.enter_context(relaying(delay))
        if "kvfs" in only:
            found.append(Kvfs(material, served, relay, delay))
        if "rclone" in only and rclone:
            found += [Rclone(material, relay, delay, mode) for mode in MODES]
        if "sdk" in only:
            found += [Sdk(material, served, relay, delay, mode) for mode in words.sdk]
        if "wrangler" in only and wrangler:
            found.append(Wrangler(material, served, relay, delay, wrangler))
    found += [Memory(material)] if "memfs" in only else []
    found += [Disk(material)] if "ext4" in only else []
    return found
