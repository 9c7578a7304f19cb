"""The writer that is promised things: random operations on few names, each logged before and after.

Run alone (`python -I -S writer.py ROOT LOG SEED SERIAL COUNT`), with nothing but the standard library, so that
it starts at once. Every line of the log is on the disk before the writer goes on; the log is outside the mount:

    {"start": n, "kind": …, …}   about to be done; from now on it may have happened
    {"synced": n}                fsync returned 0
    {"done": n}                  every call returned 0: promised
    {"failed": n, "errno": e}    refused, as an operation on a name that is (not) there is: nothing happened
    {"unsure": n, "errno": e}    another error: it may have happened; the writer ends
    {"seen": n, "exp": …}        the expiration a file has since: files inherit it
"""

import contextlib
import errno
import json
import os
import random
import sys
import time

NAMES = ("a", "b", "c", "d", "p/x", "p/y", "q/x", "q/y")
DIRECTORIES = ("p", "q")
FUTURE = 3600  # seconds: expirations are that far ahead, so nothing expires in a run
KINDS = {
    "create": 26, "rewrite": 16, "append": 8, "truncate": 4, "unlink": 14, "rename": 16, "setxattr": 8,
    "utimens": 8, "mvdir": 5,
}  # fmt: skip
LOGICAL = {errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR, errno.ENOTDIR}
DEAD = {errno.ENOTCONN, errno.ECONNABORTED, errno.ECONNREFUSED, errno.EPIPE, errno.ENODEV}


def content(serial: int, size: int) -> bytes:
    """Return the content that operation `serial` writes: its number again and again; every fifth is no text."""
    unit = b"%d:" % serial + (b"\xff\x00" if serial % 5 == 0 else b"")
    return (unit * (size // len(unit) + 1))[:size]


def choose(rng: random.Random) -> dict:
    """Return one operation with its arguments."""
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    if kind == "mvdir":
        return {"kind": kind, "name": rng.choice(DIRECTORIES)}
    op = {"kind": kind, "name": rng.choice(NAMES)}
    if kind in ("create", "rewrite", "append"):
        op["size"] = rng.choices((12, 700, 20_000, 300_000), (70, 20, 8, 2))[0] + rng.randrange(9)
        op["fsync"] = rng.random() < 0.12
    elif kind == "truncate":
        op["size"] = rng.choice((0, 5, 40))
    elif kind == "rename":
        op["to"] = rng.choice([name for name in NAMES if name != op["name"]])
    elif kind == "utimens":
        op["ahead"] = rng.random() < 0.6
    return op


class Writer:
    """Does operations below `root`, and logs them."""

    def __init__(self, root: str, log: str) -> None:
        self._root = root
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_DSYNC, 0o600)

    def say(self, **line: object) -> None:
        """Log one line, which is on the disk when this returns."""
        os.write(self._log, json.dumps(line).encode() + b"\n")

    def run(self, rng: random.Random, serial: int, count: int) -> None:
        """Do `count` operations, or as many as there are until the mount is gone."""
        for number in range(serial, serial + count):
            op = choose(rng)
            if op["kind"] == "utimens":
                ahead = op.pop("ahead")
                op["mtime"] = int(time.time()) + (FUTURE + number if ahead else -number)
                op["exp"] = op["mtime"] if ahead else None
            self.say(start=number, **op)
            try:
                getattr(self, op["kind"])(number, op)
                self.say(done=number)
                self._look(number, op)
            except OSError as exc:
                if exc.errno in DEAD:
                    return
                if exc.errno not in LOGICAL:
                    self.say(unsure=number, errno=exc.errno)
                    return
                self.say(failed=number, errno=exc.errno)
            if (chance := rng.random()) < 0.3:
                time.sleep(rng.random() * (0.1 if chance < 0.05 else 0.01))

    def _look(self, number: int, op: dict) -> None:
        if op["kind"] in ("create", "rename"):
            shown = int(os.stat(self._path(op.get("to", op["name"]))).st_mtime)
            self.say(seen=number, exp=shown if shown > time.time() + FUTURE / 2 else None)

    def _path(self, name: str) -> str:
        return os.path.join(self._root, name)

    def _write(self, number: int, op: dict, flags: int) -> None:
        descriptor = os.open(self._path(op["name"]), flags)
        try:
            value = content(number, op["size"])
            while value:
                value = value[os.write(descriptor, value) :]
            if flags & os.O_EXCL:
                os.setxattr(descriptor, "user.m", b"%d" % number)
            if op["fsync"]:
                os.fsync(descriptor)
                self.say(synced=number)
        except BaseException:
            with_error(lambda: os.close(descriptor))
            raise
        os.close(descriptor)

    def create(self, number: int, op: dict) -> None:
        make_directories(os.path.dirname(self._path(op["name"])))
        self._write(number, op, os.O_WRONLY | os.O_CREAT | os.O_EXCL)

    def rewrite(self, number: int, op: dict) -> None:
        self._write(number, op, os.O_WRONLY | os.O_TRUNC)

    def append(self, number: int, op: dict) -> None:
        self._write(number, op, os.O_WRONLY | os.O_APPEND)

    def truncate(self, number: int, op: dict) -> None:
        os.truncate(self._path(op["name"]), op["size"])

    def unlink(self, number: int, op: dict) -> None:
        os.unlink(self._path(op["name"]))

    def rename(self, number: int, op: dict) -> None:
        os.stat(self._path(op["name"]))
        make_directories(os.path.dirname(self._path(op["to"])))
        os.rename(self._path(op["name"]), self._path(op["to"]))

    def setxattr(self, number: int, op: dict) -> None:
        os.setxattr(self._path(op["name"]), "user.m", b"%d" % number)

    def utimens(self, number: int, op: dict) -> None:
        os.utime(self._path(op["name"]), (op["mtime"], op["mtime"]))

    def mvdir(self, number: int, op: dict) -> None:
        other = DIRECTORIES[1 - DIRECTORIES.index(op["name"])]
        os.rename(self._path(op["name"]), self._path(other))


def make_directories(path: str) -> None:
    """Make a directory with those above it; unlike for `os.makedirs` a dead mount is no file in the way."""
    try:
        os.mkdir(path)
    except FileExistsError:
        return
    except FileNotFoundError:
        make_directories(os.path.dirname(path))
        os.mkdir(path)


def with_error(act: object) -> None:
    """Call every function, whatever they raise, then raise the first error."""
    with contextlib.suppress(OSError):
        act()


if __name__ == "__main__":
    root, log, seed, serial, count = sys.argv[1:]
    Writer(root, log).run(random.Random(int(seed)), int(serial), int(count))
