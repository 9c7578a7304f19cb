"""Programs at a terminal: keys in, the screen as a person sees it out. Each has a tmux server of its own."""

import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_PATIENCE = 20.0  # seconds: a loaded machine starts emacs slowly
_POLL = 0.02


class Terminal:
    """One program on a screen of 100 × 30; use `terminal`."""

    def __init__(self, socket: Path) -> None:
        self._tmux = ["tmux", "-S", str(socket), "-f", "/dev/null"]
        self.seen: list[str] = []

    def start(self, command: list[str], cwd: Path, env: Mapping[str, str]) -> None:
        """Run the command; the screen stays when it ends, so that its last words can be read."""
        given = [word for name, value in env.items() for word in ("-e", f"{name}={value}")]
        self._run("new-session", "-d", "-x", "100", "-y", "30", *given, "-c", str(cwd), "sleep infinity")
        self._run("set-option", "-g", "remain-on-exit", "on")
        self._run("set-option", "-g", "escape-time", "0")
        self._run("respawn-pane", "-k", *given, "-c", str(cwd), shlex.join(command))

    def _run(self, *words: str) -> str:
        done = subprocess.run([*self._tmux, *words], capture_output=True, text=True, check=True, timeout=20)
        return done.stdout

    def screen(self) -> str:
        """Return the text on the screen now."""
        text = self._run("capture-pane", "-p").rstrip()
        if not self.seen or self.seen[-1] != text:
            self.seen.append(text)
        return text

    def type(self, text: str) -> None:
        """Type a text as it stands."""
        self._run("send-keys", "-l", text)

    def press(self, *keys: str) -> None:
        """Press keys by tmux's names: Enter, Escape, C-x."""
        self._run("send-keys", *keys)

    def wait_for(self, text: str) -> None:
        """Wait until the text is on the screen."""
        self._wait(lambda: text in self.screen(), f"{text!r} did not come")

    def wait_for_text(self, text: str) -> None:
        """Wait until the text is on the screen, wherever its lines end."""
        self._wait(lambda: text in self.screen().replace("\n", ""), f"{text!r} did not come")

    def wait_gone(self, text: str) -> None:
        """Wait until the text is not on the screen any more."""
        self._wait(lambda: text not in self.screen(), f"{text!r} did not go")

    def wait_end(self) -> int:
        """Wait until the program ended; return its exit status."""
        self._wait(lambda: self._of("pane_dead") == "1", "it did not end")
        return int(self._of("pane_dead_status") or 0)

    def _of(self, variable: str) -> str:
        return self._run("display-message", "-p", f"#{{{variable}}}").strip()

    def _wait(self, condition: Callable[[], bool], complaint: str) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"{complaint}; the screen:\n{self.screen()}"
            time.sleep(_POLL)

    def close(self) -> None:
        """End the program and its screen."""
        subprocess.run([*self._tmux, "kill-server"], capture_output=True, check=False, timeout=20)


@contextmanager
def terminal(scratch: Path, command: list[str], *, cwd: Path, **env: str) -> Iterator[Terminal]:
    """A program at a terminal, with `scratch` as its home; gone however the test ends."""
    home = scratch / "home"
    home.mkdir(exist_ok=True)
    socket = scratch / "tmux"
    plain = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "USER")}
    screen = Terminal(socket)
    try:
        screen.start(command, cwd, plain | {"HOME": str(home), "TMPDIR": str(home), "LANG": "C.UTF-8"} | env)
        yield screen
    finally:
        screen.close()
