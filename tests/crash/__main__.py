"""The command line of the crash harness: see `scripts/crash --help`."""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from crash.directed import hit_every_point
from crash.harness import run
from crash.lane import Violation
from crash.plan import Plan
from crash.shim import PLANTS

MIXED_WORD = "mixed"


def main() -> int:
    """Run the harness; return 0 when every promise was kept, 1 when one was not."""
    parser = argparse.ArgumentParser(
        prog="scripts/crash", description="Kill the daemon, and see what is lost."
    )
    parser.add_argument("--kills", type=int, default=100, metavar="N")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument(
        "--faults", nargs="?", const=MIXED_WORD, default="", metavar="WORDS",
        help="30 %% of the requests meet a fault; with words of kvfs serve --faults (cloudflare,…) those",
    )  # fmt: skip
    parser.add_argument(
        "--stale", type=float, nargs="?", const=60.0, default=0.0, metavar="SECONDS",
        help="the server's answers are up to so old (60)",
    )  # fmt: skip
    parser.add_argument(
        "--lost-acks", type=float, nargs="?", const=0.3, default=0.0, metavar="SHARE", dest="lost",
        help="so many writes are done without an answer (0.3)",
    )  # fmt: skip
    parser.add_argument(
        "--latency", type=float, default=0.02, help="seconds that a bulk request takes (0.02)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--deep", type=float, default=0.5, help="how often everything is sent and compared")
    parser.add_argument("--plant", choices=sorted(PLANTS), help="put a bug in: the run has to fail")
    parser.add_argument(
        "--every-point", action="store_true",
        help="kill once before and once after every statement of the journal, whatever leads there; "
        "fails when one is not come to that is not known as unreachable (the other options do not count)",
    )  # fmt: skip
    words = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="kvfs-crash-"))
    plan = Plan(
        kills=words.kills,
        faults=bool(words.faults),
        words="" if words.faults == MIXED_WORD else words.faults,
        stale=words.stale,
        seed=words.seed,
        plant=words.plant,
        seconds=words.seconds,
        deep=words.deep,
        lost=words.lost,
        latency=words.latency,
        births=words.plant is None,
    )
    try:
        if words.every_point:
            return every_point(directory)
        print(run(directory, plan))
    except Violation as exc:
        print(f"BROKEN: {exc}\neverything is kept in {directory}", file=sys.stderr)
        return 1
    shutil.rmtree(directory)
    return 0


def every_point(directory: Path) -> int:
    """Die at every point; return 0 when every point was hit that can be."""
    problems = hit_every_point(directory)
    print("\n".join(problems) or "every point was hit that can be, and every promise kept", flush=True)
    if problems:
        print(f"what is left is in {directory}", file=sys.stderr)
        return 1
    shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
