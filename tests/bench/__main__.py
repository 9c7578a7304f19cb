"""The command line of the benchmarks: see `scripts/bench --help`."""

import argparse
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from bench import charts, commits, cpu, everything, moving, relisting, results, scale

Command = Callable[[argparse.Namespace], int]


@contextmanager
def workplace() -> Iterator[Path]:
    """A directory on the local disk, not below /tmp (editors and some systems treat that as memory)."""
    directory = Path(tempfile.mkdtemp(prefix="kvfs-bench-", dir="/var/tmp"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _cpu(words: argparse.Namespace) -> int:
    """Hold kvfs against its targets beside the floor; return 1 when one is missed and `--strict` was given, else 0."""
    with workplace() as directory:
        found = cpu.run(directory, n=words.files, seconds=words.seconds, only=words.only)
    rows = cpu.rows(found)
    print(json.dumps([asdict(row) for row in rows], indent=1) if words.json else cpu.table(rows), end="")
    return int(words.strict and not all(row.passed for row in rows))


def _run(words: argparse.Namespace) -> int:
    with workplace() as directory:
        return everything.run(words, directory, words.out)


def _scale(words: argparse.Namespace) -> int:
    with workplace() as directory:
        return scale.run(words, directory, words.out)


def _listing(words: argparse.Namespace) -> int:
    with workplace() as directory:
        return relisting.run(words, directory)


def _commits(words: argparse.Namespace) -> int:
    with workplace() as directory:
        return commits.run(words, directory)


def _moving(words: argparse.Namespace) -> int:
    with workplace() as directory:
        return moving.run(words, directory, words.out)


def _charts(words: argparse.Namespace) -> int:
    """Draw every chart, the README's too, from the results that are there."""
    charts.redraw(words.out)
    if (words.out / "scale.json").exists():
        scale.redraw(words.out)
    return 0


def main() -> int:
    """Do what was asked for; return the exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is unmounted then, too
    given = sys.argv[1:]
    words = _parser().parse_args(given if given[:1] and not given[0].startswith("--q") else ["run", *given])
    command: Command = words.command
    return command(words)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description="Measure kvfs beside what else there is. Without a command: run."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    whole = commands.add_parser("run", help="kvfs, rclone, the SDK, wrangler, memory and disk side by side")
    whole.set_defaults(command=_run)
    everything.add_arguments(whole)
    growth = commands.add_parser("scale", help="how each cost grows with the keys of a namespace")
    growth.set_defaults(command=_scale)
    growth.add_argument("--quick", action="store_true", help="a small one")
    scale.add_arguments(growth)
    listing = commands.add_parser("listing", help="a large directory listed again, beside a small one")
    listing.set_defaults(command=_listing)
    relisting.add_arguments(listing)
    pace = commands.add_parser(
        "commits", help="commits of SQLite, in memory, on the disk and through the API"
    )
    pace.set_defaults(command=_commits)
    commits.add_arguments(pace)
    moves = commands.add_parser("moving", help="copy, export and import beside the SDK and wrangler")
    moves.set_defaults(command=_moving)
    moving.add_arguments(moves)
    drawn = commands.add_parser("charts", help="draw every chart, the README's too, from the last results")
    drawn.set_defaults(command=_charts)
    for command in (whole, growth, moves, drawn):
        command.add_argument(
            "--out", type=Path, default=results.DEFAULT, metavar="DIR", help="docs/benchmarks"
        )
    floor = commands.add_parser("cpu", help="kvfs beside an in-memory file system, within a minute")
    floor.set_defaults(command=_cpu)
    floor.add_argument("--seconds", type=float, default=45, help="rounds are added until then (45)")
    floor.add_argument("--files", type=int, default=1500, help="small files in a round (1500)")
    floor.add_argument("--only", default="", metavar="TEXT", help="show only tasks whose name has TEXT in it")
    floor.add_argument("--json", action="store_true", help="print JSON, not a table")
    floor.add_argument("--strict", action="store_true", help="exit status 1 when a target is missed")
    return parser


if __name__ == "__main__":
    sys.exit(main())
