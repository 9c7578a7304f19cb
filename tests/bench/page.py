"""The Markdown page and the JSON document of a run of everything."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import charts, cpu, results, tables
from bench.machine import machine_lines
from bench.reasons import reason
from bench.report import BEHIND, Report, Row, counted, cpu_cell, kinds_cell, peak_cell, requests_cell
from bench.suite import SLOW
from bench.workloads import COMMAND, CREATE, MEANING, MOUNT, READ, UNCHECKED, Subject

_HEAD = """# Benchmarks

Written by `scripts/bench`; do not edit. {n:,} files of 1 KiB in directories of 50, and one of 25 MiB. Everything
under test takes its turn at each phase, again and again; these are medians of {rounds}. A small digit says how often
something was measured that takes longer: what takes more than {slow:g} s is not repeated (it is waiting for the
network, which hardly varies), the rest as often as there was time.

{machine}
Every request, of everything under test that speaks HTTP, passes the same relay, which holds it for 0 ms or for the
delay named and counts it. Cold is a fresh mount with fresh state and empty caches, or a fresh process, over content
that the server already has. What changes something is over when the server has it. Nothing waits for a write-back
delay: kvfs is told to `sync`, rclone has none. A workload is one command or a few, from the start of the first
process to the end of the last: `cp`, a Python script that saves files, the same over the SDK, `wrangler`. Nobody is
told names that a user would have to look up.

"""
_DIGITS = "⁰¹²³⁴⁵⁶⁷⁸⁹"
_AFTER = f"""
## What to know when reading

- The two stores are not the same: rclone's is a directory behind WebDAV, kvfs' and the SDK's is `kvfs serve`, a server
  in Python over SQLite that answers as Workers KV does. WebDAV has a rename and sizes in its listings, Workers KV has
  neither: `mv` and `ls -l` cost rclone one request a directory, and everybody else the values. A rename through the
  SDK is reading, writing and deleting.
- The SDK and wrangler leave nothing behind that other programs could open; their *{COMMAND[CREATE]}* reads
  local files, their *{COMMAND[READ]}* keeps the values in memory. What they start is measured, a mount is started
  once before: row *{COMMAND[MOUNT]}*.
- CPU is that of the daemon, plus that of the commands (`cp`, `grep`, the scripts, wrangler). The server's own is in
  the JSON, the relay's nowhere.
- A save of kvfs looks first whether somebody else changed the value since it was read (a bulk get), and keeps both
  if so; nobody else looks. *{COMMAND[UNCHECKED]}* is kvfs doing what they do.
- ext4 is what the kernel has in its page cache: nothing is ever cold there. memfs is mounted anew, as kvfs is.
- Peak memory is the most that was resident (VmHWM) while the workload ran.
- A connection's own round trips (TCP, TLS) are not delayed.
"""


@dataclass(frozen=True)
class Setting:
    """The settings of a run."""

    n: int
    rounds: int
    machine: Mapping[str, str]
    notes: Sequence[str] = ()
    """What is to be known of this run: who could not be measured, say."""


def write(
    out: Path, report: Report, floor: Sequence[cpu.Row], subjects: Sequence[Subject], how: Setting
) -> None:
    """`results.md`, `results.json` and the plots."""
    out.mkdir(parents=True, exist_ok=True)
    measured = [asdict(row) | {"passed": row.passed} for row in floor]
    made = charts.draw(out, report, how.n, measured)
    text = _HEAD.format(n=how.n, rounds=how.rounds, slow=SLOW, machine=machine_lines(dict(how.machine)))
    text += "".join(f"{note}\n\n" for note in how.notes)
    text += _verdicts(report) + _beside_running(report) + _tables(report, how.rounds)
    text += _floor(floor) + _settings(subjects) + _AFTER
    text += "\n## Charts\n\n" + "".join(f"![{name}]({name})\n\n" for name in made)
    document: dict[str, Any] = {
        "machine": dict(how.machine),
        "files": how.n,
        "rounds": how.rounds,
        "notes": list(how.notes),
        "settings": {subject.name: subject.settings for subject in subjects},
        "verdicts": [asdict(verdict) for verdict in report.verdicts()],
        "sdk_start": report.start,
        "rows": report.document(),
        "cpu": measured,
    }
    results.write(out, "results", document, text.rstrip() + "\n")


def _verdicts(report: Report) -> str:
    found = report.verdicts()
    if not found:
        return ""
    lines = [
        (COMMAND[v.workload], v.what, "**behind**" if v.standing == BEHIND else v.standing, v.detail)
        for v in found
    ]
    behind = dict.fromkeys((v.workload, v.measure) for v in found if v.standing == BEHIND)
    text = (
        f"## Is kvfs ahead?\n\n{counted([v.standing for v in found]).capitalize()} comparisons with the best of its "
        "peers.\n\n" + tables.markdown(["", "in", "", "kvfs; the best peer"], lines) + "\n"
    )
    if behind:
        text += "Where it is behind, why, and what the least would be:\n\n"
        text += "".join(
            f"- *{COMMAND[workload]}*, {measure}: {reason(workload, measure)}\n"
            for workload, measure in behind
        )
    return text + "\n"


def _beside_running(report: Report) -> str:
    if report.start is None or "kvfs" not in report.subjects:
        return ""
    text = (
        "## Beside an SDK that is running already\n\n"
        f"Of the SDK's times, {tables.seconds(report.start)} are starting Python and importing it (the median; each "
        "run measured its own): subtract them for a program that is running already. That leaves:\n"
    )
    for delay in reversed(report.delays):
        text += f"\nEach request {delay * 1000:.0f} ms late:\n\n{report.beside_running(delay)}"
    return text + "\n"


def _tables(report: Report, rounds: int) -> str:
    def wall_cell(row: Row) -> str:
        return tables.seconds(row.wall) + (_DIGITS[min(row.runs, 9)] if row.runs < max(rounds, 2) else "")

    text = "## Wall time\n"
    for delay in reversed(report.delays):
        text += f"\nEach request {delay * 1000:.0f} ms late:\n\n" + report.table(delay, wall_cell)
    last, first = report.delays[-1], report.delays[0]
    networked = [name for name in report.subjects if name not in ("memfs", "ext4")]
    daemons = [name for name in report.subjects if any(r.peak for r in report.rows if r.subject == name)]
    text += "\n## Requests\n\n" + report.table(last, requests_cell, networked)
    if "kvfs" in report.subjects:
        text += "\nThose of kvfs by kind:\n\n" + report.table(last, kinds_cell, ["kvfs"])
    text += "\n## CPU, daemon + client\n\nWithout delay:\n\n" + report.table(first, cpu_cell)
    text += "\n## Peak memory of the daemon\n\n" + report.table(first, peak_cell, daemons)
    text += "\n## The workloads\n\n"
    return text + "".join(f"- *{COMMAND[name]}*: {MEANING[name]}\n" for name in report.workloads) + "\n"


def _floor(floor: Sequence[cpu.Row]) -> str:
    if not floor:
        return ""
    return (
        "## CPU: the distance to the floor\n\n`scripts/bench cpu`: no network, everything warm, rate of operations. "
        "memfs is a file system in memory on the same Python, pyfuse3 and settings; bare, it is not even asked for "
        "flush and extended attributes, which kvfs needs.\n\n" + cpu.table(floor) + "\n"
    )


def _settings(subjects: Sequence[Subject]) -> str:
    known = {subject.name: subject.settings for subject in subjects}
    return "## How each was set up\n\n" + "".join(f"- *{name}*: {text}\n" for name, text in known.items())
