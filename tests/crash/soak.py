"""Mixed work by eight processes for a while, with faults: nothing stalls, nothing leaks, nothing is left."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from crash.plan import LATENCY
from crash.temper import Rule, explained, lifted, rules, staleness
from support.mounted import Api, Mounted, mounted
from support.serving import served_by_process

WORKER = Path(__file__).with_name("worker.py")
WORKERS = 8
TIMEOUT = 10.0  # --timeout of the mount
LATE = 0.5  # seconds that a busy machine may answer later than a mount promises
OPTIONS = (
    f"--timeout={TIMEOUT:g}", "--cache-ttl=2", "--write-back=0.5", "--cache-size=8M",
    "--rate-requests=1000000", "--drain-timeout=300",
)  # fmt: skip
ROOM = 96  # MiB that values, bodies and requests under way may take at any moment, beside what a daemon is
GROWTH = 12  # MiB that it may take more of in the last third than in the one before: bodies come and go
WARM = 15 * 60.0  # seconds of a run whose last two thirds are warm: the rate's window (300 s) is full then
FAILED = 0.05  # of the calls may fail: with a limit that is used up for minutes, each failure takes --timeout
DESCRIPTORS = 20  # that may be open for requests under way


@dataclass(frozen=True)
class Sample:
    """The daemon's holdings `at` a moment (seconds): MiB, descriptors, inodes."""

    at: float
    rss: float
    descriptors: int
    inodes: int


def sample(mount: Mounted) -> Sample:
    """Return a sample of this moment."""
    process = Path("/proc", str(mount.process.pid))
    pages = int((process / "statm").read_text().split()[1])
    status = mount.status()
    return Sample(
        time.monotonic(),
        pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        len(os.listdir(process / "fd")),
        status["inodes"]["count"],
    )


def soak(directory: Path, seconds: float, *, faults: bool, words: str = "", seed: int = 0) -> list[str]:
    """Run the soak; return a list of faults, empty when all was well. `seed`: another one makes other work."""
    temper = rules(words, seconds) if faults else []
    settle = max(2.0, staleness(temper) + 1.0)
    with (
        served_by_process(directory, faults=f"seed={seed + 1}") as served,
        Api(served) as api,
        mounted(directory, "cloudflare:", *OPTIONS, f"--settle={settle}", served=served) as mount,
    ):
        (mount.path / "ns").mkdir()
        before = sample(mount)
        api.set_faults(*temper, LATENCY)
        samples, problems = work(mount, api, seconds, seed, temper)
        api.set_faults()
        problems += judge(samples, before)
        mount.sync(timeout=420)  # the API may have asked for five minutes
        problems += left(mount, api, before, settle)
        return problems + unforeseen(mount.log.read_text())


def start(
    mount: Mounted, number: int, seconds: float, seed: int, temper: list[Rule]
) -> subprocess.Popen[str]:
    """Start one worker, which may see the errors that the server's temper explains."""
    errnos = ",".join(map(str, sorted(explained(temper))))
    words = [mount.path / f"ns/{number}", str(seed * WORKERS + number), str(seconds), errnos]
    command = [sys.executable, "-I", "-S", WORKER, *words]
    return subprocess.Popen(command, cwd="/", stdout=subprocess.PIPE, text=True)


def work(
    mount: Mounted, api: Api, seconds: float, seed: int, temper: list[Rule]
) -> tuple[list[Sample], list[str]]:
    """Run eight workers, and look at the daemon now and then; lift the limit of requests for their tidying."""
    workers = [start(mount, number, seconds, seed, temper) for number in range(WORKERS)]
    samples, problems = [], []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(min(10.0, seconds / 30))
        samples.append(sample(mount))
    api.set_faults(*lifted(temper), LATENCY)
    calls = failed = 0
    for number, process in enumerate(workers):
        said, _ = process.communicate(timeout=300)
        if process.returncode:
            problems.append(f"worker {number} failed")
            continue
        answer = json.loads(said)
        calls += answer["calls"]
        failed += sum(answer["errors"].values())
        took, call = answer["longest"]
        print(f"worker {number}: {answer['calls']} calls, longest {call} {took:.2f} s, {answer['errors']}")
        problems += [f"worker {number}: {wrong}" for wrong in answer["wrong"]]
        if took > bound(call):
            problems.append(f"worker {number}: {call} took {took:.1f} s")
    problems += too_many(failed, calls)
    print(f"{calls} calls in {seconds:.0f} s; sender: {mount.status()['sender']}")
    return samples, problems


def bound(call: str) -> float:
    """Return the seconds that a call may take: those of docs/compatibility.md, where a rename walks two paths."""
    return TIMEOUT * (1.45 if call == "rename" else 1.15) + 1 + LATE


def judge(samples: list[Sample], before: Sample) -> list[str]:
    """Return a complaint if the daemon takes too much, or grew: by medians of the last two thirds, not by ends.

    A run of minutes says nothing of growth, since it ends before the bounded caches are full: the values
    (`--cache-size`), the requests of the rate's window, the heaps of the C library.
    """
    if len(samples) < 3:
        return ["the machine is too busy to look at the daemon three times"]
    third = len(samples) // 3
    middle, last = samples[third : 2 * third], samples[2 * third :]
    early, late = (median(one.rss for one in part) for part in (middle, last))
    fewer, more = (median(one.descriptors for one in part) for part in (middle, last))
    most = max(one.rss for one in samples)
    print(
        f"resident {before.rss:.0f} MiB at first, {early:.0f} in the second third, {late:.0f} in the last, "
        f"at most {most:.0f}; descriptors {fewer:.0f} → {more:.0f}; "
        f"inodes at most {max(one.inodes for one in samples)}"
    )
    problems = []
    if most > before.rss + ROOM:
        problems.append(f"the daemon took {most:.0f} MiB")
    if last[-1].at - samples[0].at > WARM and late > early + GROWTH:
        problems.append(f"the daemon grew by {late - early:.0f} MiB in the last third")
    if more > fewer + DESCRIPTORS:
        problems.append(f"descriptors went from {fewer:.0f} to {more:.0f}")
    return problems


def too_many(failed: int, calls: int) -> list[str]:
    """Return a complaint if so many calls failed that the server's temper does not explain it, whatever the errnos."""
    return [f"{failed} of {calls} calls failed"] if failed > FAILED * calls else []


def unforeseen(log: str) -> list[str]:
    """Return what the daemon's log says of bugs. A program sees EIO then, as for a server that fails."""
    lines = log.splitlines()
    bugs = [line for line in lines if "a bug of kvfs" in line]
    if not bugs and any(line.startswith("Traceback (most recent call last)") for line in lines):
        bugs = ["a traceback"]
    return [f"{len(bugs)} unforeseen errors are in the log, such as: {bugs[0]}"] if bugs else []


def left(mount: Mounted, api: Api, before: Sample, settle: float) -> list[str]:
    """Return the things that are still there when all is sent, settled (after so many seconds) and forgotten."""
    until = time.monotonic() + settle + 30
    while mount.status()["settling"]["count"] and time.monotonic() < until:
        time.sleep(0.2)
    if os.geteuid() == 0:
        Path("/proc/sys/vm/drop_caches").write_text("2")
        time.sleep(1)
    status, now = mount.status(), sample(mount)
    print(f"left: {now.descriptors} descriptors, {now.inodes} inodes, {now.rss:.0f} MiB (before: {before})")
    counts = {name: status[name]["count"] for name in ("pending", "settling", "rejected", "local")}
    counts |= {"open": status["inodes"]["open"], "conflicts": status["sender"]["conflicts"]}
    problems = [f"{name}: {count} are left" for name, count in counts.items() if count]
    if os.geteuid() == 0 and now.inodes > before.inodes + 2:
        problems.append(f"{now.inodes} inodes are left, {before.inodes} at the start")
    if now.descriptors > before.descriptors + DESCRIPTORS:
        problems.append(f"{now.descriptors} descriptors are left, {before.descriptors} at the start")
    if keys := api.keys(api.namespace("ns")):
        problems.append(f"the server has {len(keys)} keys: {sorted(keys)[:5]}")
    spool = list(mount.state.glob("sources/*/*.spool/*"))
    return problems + ([f"{len(spool)} spooled files are left"] if spool else [])


def main() -> int:
    """Run the soak; return 0 when all was well."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description="Work hard for a while.")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--no-faults", action="store_true")
    parser.add_argument("--seed", type=int, default=0, help="another one makes other work and other faults")
    parser.add_argument("--faults", default="", metavar="WORDS", help="of kvfs serve, such as cloudflare")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kvfs-soak-") as directory:
        problems = soak(
            Path(directory),
            words.minutes * 60,
            faults=not words.no_faults,
            words=words.faults,
            seed=words.seed,
        )
    print("\n".join(f"WRONG: {problem}" for problem in problems) or "all is well")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
