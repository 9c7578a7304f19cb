"""One process of the soak: mixed work in a folder of its own, every call timed (`python -I -S worker.py …`).

Arguments: FOLDER SEED SECONDS ERRNOS (numbers, with commas between them, that may be seen). Prints one line of JSON:
calls, errors by errno, the longest call and its name, and what went wrong. It leaves nothing behind.
"""

import errno
import json
import mmap
import os
import random
import sys
import time
from collections import Counter, deque

FILES = 40
PAST = 10  # calls of a name that are told when it is wrong
LOCAL = (
    "read",
    "write",
    "close",
)  # calls of an open file need no server: nothing of it explains their errors
SIZES = ((0, 100, 5_000, 200_000, 1_500_000), (5, 60, 25, 8, 2))


class Worker:
    """Does mixed work, and knows what it wrote; a file whose last call failed may be as before or after."""

    def __init__(self, folder: str, seed: int, explained: set[int]) -> None:
        self._folder = folder
        self._explained = explained  # by the temper of the server
        self._random = random.Random(seed)
        self._known: dict[str, bytes] = {}
        self._past: dict[str, deque[str]] = {}  # the last calls of each name, oldest first
        self._begun = time.monotonic()
        self.calls = 0
        self.errors: Counter[str] = Counter()
        self.longest = (0.0, "")
        self.last = ""  # the call made last
        self.wrong: list[str] = []

    def timed(self, call, *arguments):
        """Time one call of the kernel."""
        begun, self.last = time.monotonic(), call.__name__
        try:
            return call(*arguments)
        finally:
            took = time.monotonic() - begun
            self.calls += 1
            self.longest = max(self.longest, (took, call.__name__))

    def run(self, seconds: float) -> None:
        """Work, then tidy up."""
        until = time.monotonic() + seconds
        self._again(lambda: os.makedirs(self._folder, exist_ok=True))
        while time.monotonic() < until:
            name = f"{self._random.randrange(4)}/{self._random.randrange(FILES // 4)}"
            kind = self._random.choices(
                [self.write, self.append, self.read, self.look, self.rename, self.unlink, self.mapped],
                (20, 8, 25, 15, 8, 12, 3),
            )[0]
            try:
                kind(name)
            except OSError as exc:
                self._note(name, f"{kind.__name__} failed: {exc.strerror}")
                self._failed(f"{kind.__name__} {name}", exc, self._history(name))
                self._known.pop(name, None)
        self._again(self._remove_all)

    def _again(self, act) -> None:
        for _ in range(20):
            try:
                act()
                return
            except OSError as exc:
                self._failed("tidying up", exc)
        self.wrong.append("cannot tidy up")

    def _failed(self, what: str, error: OSError, history: str = "") -> None:
        self.errors[errno.errorcode.get(error.errno, "?")] += 1
        if error.errno not in self._explained or self.last in LOCAL:
            self.wrong.append(f"{what}, at {self.last}: {error}{history}")

    def _remove_all(self) -> None:
        for directory, names, files in os.walk(self._folder, topdown=False, onerror=_raise):
            for name in files:
                self.timed(os.unlink, os.path.join(directory, name))
            for name in names:
                self.timed(os.rmdir, os.path.join(directory, name))
        os.rmdir(self._folder)

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, name)

    def _note(self, name: str, words: str) -> None:
        """Remember a call, for what is said of the name when it is wrong."""
        at = time.monotonic() - self._begun
        self._past.setdefault(name, deque(maxlen=PAST)).append(f"{at:.3f} s {words}")

    def _history(self, name: str) -> str:
        now = time.monotonic() - self._begun
        return f"; at {now:.3f} s, after: {', '.join(self._past.get(name, ()))}"

    def write(self, name: str) -> None:
        size = self._random.choices(*SIZES)[0]
        value = self._random.randbytes(size) if self._random.random() < 0.3 else b"t" * size
        self._put(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, value)
        self._known[name] = value
        self._note(name, f"write {size}")

    def append(self, name: str) -> None:
        if name in self._known and len(self._known[name]) < 300_000:
            self._put(name, os.O_WRONLY | os.O_APPEND, b"more")
            self._known[name] += b"more"
            self._note(name, f"append to {len(self._known[name])}")

    def _put(self, name: str, flags: int, value: bytes) -> None:
        self.timed(os.makedirs, os.path.dirname(self._path(name)), 0o777, True)
        descriptor = self.timed(os.open, self._path(name), flags)
        try:
            while value:
                value = value[self.timed(os.write, descriptor, value) :]
            if self._random.random() < 0.05:
                self.timed(os.setxattr, descriptor, "user.a", b"1")
                self._note(name, "setxattr")
            if self._random.random() < 0.05:
                self.timed(os.fsync, descriptor)
                self._note(name, "fsync")
        except OSError:
            failed, _ = self.last, self.timed(os.close, descriptor)
            self.last = failed
            raise
        self.timed(os.close, descriptor)

    def read(self, name: str) -> None:
        if name not in self._known:
            return
        descriptor = self.timed(os.open, self._path(name), os.O_RDONLY)
        try:
            found = b""
            while part := self.timed(os.read, descriptor, 1 << 20):
                found += part
        finally:
            os.close(descriptor)
        if found != self._known[name]:
            sizes = f"{len(found)} bytes, not {len(self._known[name])}"
            self.wrong.append(f"{name} has {sizes}: {found[:20]!r}{self._history(name)}")
        self._note(name, f"read {len(found)}")

    def look(self, name: str) -> None:
        folder = os.path.dirname(name)
        if any(known.startswith(folder + "/") for known in self._known):
            listed = set(self.timed(os.listdir, self._path(folder)))
            missing = {os.path.basename(k) for k in self._known if k.startswith(folder + "/")} - listed
            if missing:
                self.wrong.append(f"{folder} lacks {missing}")
        if name in self._known:
            shown, expected = self.timed(os.stat, self._path(name)).st_size, len(self._known[name])
            if shown != expected:
                again = os.stat(self._path(name)).st_size
                self.wrong.append(
                    f"{name} shows {shown} bytes, not {expected}, then {again}{self._history(name)}"
                )
            self._note(name, f"stat {shown}")

    def rename(self, name: str) -> None:
        if name in self._known:
            other = f"{self._random.randrange(4)}/{self._random.randrange(FILES // 4)}"
            if other != name:
                self.timed(os.makedirs, os.path.dirname(self._path(other)), 0o777, True)
                value = self._known.pop(name)
                replaced = self._known.pop(other, None)
                self._past[other] = self._past.pop(name, deque(maxlen=PAST))  # the events of the file
                self._note(other, f"rename from {name}" + (f" over {len(replaced)}" if replaced else ""))
                self._note(name, f"rename to {other}")
                self.timed(os.rename, self._path(name), self._path(other))
                self._known[other] = value

    def unlink(self, name: str) -> None:
        if self._known.pop(name, None) is not None:
            self.timed(os.unlink, self._path(name))
            self._note(name, "unlink")

    def mapped(self, name: str) -> None:
        if self._known.get(name):
            descriptor = self.timed(os.open, self._path(name), os.O_RDWR)
            try:
                with mmap.mmap(descriptor, len(self._known[name])) as view:
                    view[0:1] = b"M"
            finally:
                self.timed(os.close, descriptor)
            self._known[name] = b"M" + self._known[name][1:]
            self._note(name, "stored by mmap")


def _raise(error: OSError) -> None:
    raise error


if __name__ == "__main__":
    worker = Worker(
        sys.argv[1], int(sys.argv[2]), {int(number) for number in sys.argv[4].split(",") if number}
    )
    worker.run(float(sys.argv[3]))
    answer = {
        "calls": worker.calls,
        "errors": worker.errors,
        "longest": worker.longest,
        "wrong": worker.wrong,
    }
    print(json.dumps(answer))
