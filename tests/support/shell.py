"""A user's shell for tests of the command line: a home of its own, and every command as a process."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from support.quick import quick

from kvfs.cli.exits import Exit

Done = subprocess.CompletedProcess[str]


@dataclass
class Shell:
    """A user's shell: a home with state of its own, an empty directory to mount on, and perhaps a server."""

    home: Path
    env: dict[str, str]

    @property
    def mnt(self) -> Path:
        return self.home / "mnt"

    @property
    def local(self) -> str:
        return f"local:{self.home}/store.sqlite"

    @property
    def state(self) -> Path:
        return self.home / "state" / "kvfs"

    def kvfs(self, *words: object, cwd: Path | None = None, **env: str) -> Done:
        """Run one command and return how it ended, without the lines that say every ten seconds what it waits for."""
        done = subprocess.run(
            [sys.executable, "-P", "-m", "kvfs", *map(str, words)],
            env={**self.env, **env},
            cwd=cwd or self.home,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        done.stderr = re.sub(r"(?m)^(?!kvfs: ).* \(\d+ s\)\n", "", done.stderr)
        return done

    def ok(self, *words: object, **env: str) -> str:
        """Run one command that must succeed, silently but for its result."""
        done = self.kvfs(*words, **env)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout

    def fails(self, *words: object, status: int = Exit.FAILED, **env: str) -> str:
        """Run one command that must fail with one line; return the line."""
        done = self.kvfs(*words, **env)
        assert done.returncode == status, done
        assert done.stderr.startswith("kvfs: ")
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr.removeprefix("kvfs: ").rstrip("\n")

    def daemon(self) -> int:
        """Return the process that serves the mount, as the status says."""
        return int(self.status()["pid"])

    def status(self) -> dict[str, object]:
        [found] = json.loads(quick(self.env, "status", "--json", self.mnt).stdout)["mounts"]
        return dict(found)

    def end(self) -> None:
        """Remove everything left of a mount."""
        for record in self.state.glob("mounts/*.json"):
            pid = int(json.loads(record.read_text())["pid"])
            subprocess.run(["kill", "-9", str(pid)], check=False, capture_output=True)
        subprocess.run(["fusermount3", "-uzq", str(self.mnt)], check=False, capture_output=True)
