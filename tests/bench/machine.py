"""The machine and the versions that a measurement was made with, for the head of every result."""

import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyfuse3

import kvfs

REPOSITORY = Path(__file__).parents[2]


def machine(tools: Sequence[Sequence[str]] = ()) -> dict[str, str]:
    """Return names and values; `tools` are commands that print a version on their first line."""
    found = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "kvfs": f"{kvfs.__version__} ({_revision()})",
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{_memory()} GiB",
        "system": f"{_distribution()}, Linux {platform.release()}",
        "Python": platform.python_version(),
        "libfuse": pyfuse3.fuse_version
        if hasattr(pyfuse3, "fuse_version")
        else _version("fusermount3", "-V"),
    }
    for package in ("pyfuse3", "trio", "httpx", "cloudflare"):
        found[package] = importlib.metadata.version(package)
    for command in tools:
        found[Path(command[0]).name] = _version(*command)
    return {name: value for name, value in found.items() if value}


def machine_lines(found: dict[str, str]) -> str:
    """Return them as a Markdown list."""
    return "".join(f"- {name}: {value}\n" for name, value in found.items())


def _version(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except OSError:
        return ""
    said = re.search(r"\d+(\.\d+)+\S*", done.stdout + done.stderr)
    return said[0] if said else ""


def _revision() -> str:
    git = ["git", "-C", str(REPOSITORY)]
    done = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run(
        [*git, "status", "--porcelain", "kvfs"], capture_output=True, text=True, check=False
    )
    return (done.stdout.strip() or "unknown revision") + (" and changes" if changed.stdout.strip() else "")


def _processor() -> str:
    found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    return found[1].strip() if found else platform.machine()


def _memory() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def _distribution() -> str:
    return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
