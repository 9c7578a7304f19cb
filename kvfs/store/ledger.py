"""The ledger: requests of an account, counted together by all processes of a user in one small file.

Invariants:
- A request starts only with a token. Tokens are taken from the file a few at a time, under its lock, *because* then
  the file is not touched for each request and the count is never above the limit.
- A token counts from when it was taken until a window after its request ended; one that was never used, and those of
  a process that died, until a window after they could have been used last.
- Nothing waits for the file: who does not get the lock at once counts for itself for a moment. A file that is
  damaged begins anew, as half used up.

Times are seconds since this machine was started, *because* the clock on the wall may jump.
"""

import fcntl
import logging
import os
import time
from array import array
from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Final
from zlib import crc32

log = logging.getLogger("kvfs.store")

LEASE: Final = 10.0  # seconds for which a token that was taken may be used
REPORT: Final = 1.0  # seconds after which requests that ended are told to the others
PLENTY: Final = ((400, 16), (100, 4), (0, 1))  # requests left, and so many tokens taken at a time
LONGEST: Final = 1000.0  # seconds of a window that the file can tell of
_MAGIC: Final = b"kvfs-use"
_HEAD: Final = Struct("<8sI16sdddI")  # magic, sum, boot, blocked until, told until, told left, quota
_SLOT: Final = Struct("<IIQd")  # process, tokens, when the process started, when it said so
_SECONDS: Final = 1024
_SLOTS: Final = 64
_RING_BYTES: Final = _SECONDS * 8
_BYTES: Final = _HEAD.size + _RING_BYTES + _SLOTS * _SLOT.size
_TRIES: Final = 20
_TRY_SECONDS: Final = 0.0005

Owner = tuple[int, int]
"""A process: its number, and when it started, in the kernel's ticks."""


def seconds_up() -> float:
    """Return the seconds since this machine was started, sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def this_boot() -> bytes:
    """Return an identity of this start of the machine."""
    try:
        return bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", ""))
    except (OSError, ValueError):
        return bytes(16)


def process(pid: int | None = None) -> Owner:
    """Return this process, or another; one that does not exist started never."""
    pid = os.getpid() if pid is None else pid
    try:
        fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return pid, 0
    return pid, 0 if fields[0] in ("Z", "X") else int(fields[19])


@dataclass(frozen=True, slots=True)
class Machine:
    """The clock of this machine, what tells its start from others, and its processes."""

    now: Callable[[], float]
    boot: bytes
    owner: Owner
    find: Callable[[int], Owner]


def here() -> Machine:
    """Return the machine we are on, with this process."""
    return Machine(seconds_up, this_boot(), process(), process)


@dataclass(slots=True)
class Told:
    """The API's own count: requests `left` until then, of how many, less the tokens taken since."""

    left: float = 0.0
    until: float = 0.0
    quota: int = 0


class _Page:
    """The content of the file."""

    def __init__(self) -> None:
        self.blocked_until = 0.0
        self.told = Told()
        self.ring = array("I", bytes(_RING_BYTES))  # second and count, by turns, at second % _SECONDS
        self.slots: dict[Owner, tuple[int, float]] = {}  # tokens of a process, and when it said so

    @classmethod
    def read(cls, data: bytes, boot: bytes) -> "_Page | None":
        """Read the file; None if it is damaged, or of another start of the machine."""
        if len(data) != _BYTES or _HEAD.unpack_from(data)[1:3] != (crc32(data[12:]), boot):
            return None
        page = cls()
        magic, _, _, page.blocked_until, until, left, quota = _HEAD.unpack_from(data)
        page.told = Told(left, until, quota)
        page.ring = array("I", data[_HEAD.size : _HEAD.size + _RING_BYTES])
        for pid, tokens, started, at in _SLOT.iter_unpack(data[_HEAD.size + _RING_BYTES :]):
            if pid:
                page.slots[pid, started] = (tokens, at)
        return page if magic == _MAGIC else None

    def encode(self, boot: bytes) -> bytes:
        """Encode it for the file."""
        told = self.told
        head = _HEAD.pack(_MAGIC, 0, boot, self.blocked_until, told.until, told.left, told.quota)
        slots = [_SLOT.pack(pid, tokens, started, at) for (pid, started), (tokens, at) in self.slots.items()]
        rest = b"".join([head[12:], self.ring.tobytes(), *slots[:_SLOTS]])
        rest += bytes(_BYTES - 12 - len(rest))
        return _MAGIC + crc32(rest).to_bytes(4, "little") + rest

    def add(self, second: int, count: int) -> None:
        """Count requests that ended at a moment, or count as if they had."""
        place = 2 * (second % _SECONDS)
        if self.ring[place] != second:
            self.ring[place], self.ring[place + 1] = second, 0
        self.ring[place + 1] += count

    def ended(self, since: float, now: float) -> Iterator[tuple[int, int]]:
        """Return seconds, in order, with how many requests ended in them."""
        for second in range(max(0, int(since)), int(now) + 1):
            place = 2 * (second % _SECONDS)
            if self.ring[place] == second and self.ring[place + 1]:
                yield second, self.ring[place + 1]


class Ledger:
    """One process' view of the file. `reserved` are its tokens that no request has taken yet.

    `blocked_until` and `told` are as the file said last. `is_alone`: the file cannot be used.
    """

    def __init__(
        self, path: Path | None, requests: int, window: float, machine: Callable[[], Machine] = here
    ) -> None:
        """With None for a path it counts with nobody."""
        found = machine()
        # constants
        self.now = found.now
        self._requests = requests
        self._window = min(window, LONGEST)
        self._boot = found.boot
        self._owner = found.owner
        self._find = found.find
        # state
        self.reserved = 0
        self.blocked_until = 0.0
        self.told = Told()
        self.is_alone = path is None
        self._descriptor = -1
        self._at = float("-inf")  # when the file was looked at
        self._unsaid: Counter[int] = Counter()  # requests of ours that ended, by second, and nobody knows
        self._ours: Counter[int] = Counter()  # the others that the file says
        self._others: list[tuple[float, int]] = []  # until when tokens of others count, and how many
        if path is None:
            return
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._descriptor = os.open(path, flags, 0o600)
        except OSError as exc:
            self._give_up(exc)

    def _give_up(self, error: OSError) -> None:
        self.is_alone, self.reserved, self._others = True, 0, []
        log.warning("requests are not counted together with those of other mounts: %s", error)

    # calls that need no look at the file

    def has_token(self) -> bool:
        """Return True if a request may start without a look at the file."""
        return self.is_alone or (self.reserved > 0 and self.now() - self._at < LEASE)

    def take(self) -> None:
        """Take a token, because a request starts."""
        self.reserved -= not self.is_alone

    def give_back(self) -> None:
        """Give a token back, because its request was never made."""
        self.reserved += not self.is_alone

    def end(self) -> bool:
        """Note that a request ended; return True when the others are to be told."""
        if self.is_alone:
            return False
        now = self.now()
        self._unsaid[int(now)] += 1
        return now - self._at > REPORT

    def is_old(self) -> bool:
        """Return whether the others may have changed something since the file was looked at."""
        return not self.is_alone and self.now() - self._at > REPORT

    def others(self) -> list[tuple[float, int]]:
        """Return until when requests of others count, in order, and how many, as far as this process knows."""
        now, others = self.now(), self._others
        gone = 0
        while gone < len(others) and others[gone][0] <= now:
            gone += 1
        if gone:
            del others[:gone]
        return others

    # calls that do

    def renew(self, in_flight: int, *, wants: bool = False) -> None:
        """Write what ended, learn what the others did; with `wants` take tokens, as far as the limit allows."""
        with self._page() as page:
            if page is not None:
                self._renew(page, in_flight, wants=wants)

    def block(self, seconds: float) -> None:
        """Let nobody make a request for so long."""
        with self._page() as page:
            if page is not None:
                self.blocked_until = page.blocked_until = max(page.blocked_until, self.now() + seconds)

    def tell(self, left: int, seconds: float, quota: int, in_flight: int) -> None:
        """Note the API's count: so many requests are left for so long; those under way may be not counted there yet."""
        with self._page() as page:
            if page is not None:
                others = sum(tokens for owner, (tokens, _) in page.slots.items() if owner != self._owner)
                net = max(0, left - others - max(0, in_flight - 1))
                page.told = self.told = Told(max(0, net - self.reserved), self.now() + seconds, quota)

    def close(self, in_flight: int) -> None:
        """Give unused tokens back; requests under way count as if they ended now."""
        if self._descriptor < 0:
            return
        self.reserved = 0
        self._unsaid[int(self.now())] += in_flight
        with self._page() as page:
            if page is not None:
                self._say(page)
                page.slots.pop(self._owner, None)
        os.close(self._descriptor)
        self._descriptor, self.is_alone = -1, True

    def _renew(self, page: _Page, in_flight: int, *, wants: bool) -> None:
        window, now = self._window, self.now()
        if now - self._at >= LEASE:
            self.reserved = 0  # others may not count them any more
        self._say(page)
        self._sweep(page, now)
        since, others = now - window - 1, list[tuple[float, int]]()
        used = in_flight + self.reserved
        for second, count in page.ended(since, now):
            ours = min(count, self._ours[second])
            used += ours
            if count > ours:
                others.append((second + 1 + window, count - ours))
        for owner, (tokens, at) in page.slots.items():
            if owner != self._owner and tokens:
                insort(others, (at + LEASE + window, tokens))
        left = float(self._requests - used - sum(count for _, count in others))
        if now < page.told.until:
            left = min(left, page.told.left)
        if wants and left > 0:
            taken = min(int(left), next(size for least, size in PLENTY if left > least))
            self.reserved += taken
            page.told.left -= taken
        if self._owner in page.slots or len(page.slots) < _SLOTS:
            page.slots[self._owner] = (in_flight + self.reserved, now)
        self._others, self._at = others, now
        self.blocked_until, self.told = page.blocked_until, page.told

    def _say(self, page: _Page) -> None:
        for second, count in self._unsaid.items():
            page.add(second, count)
            self._ours[second] += count
        self._unsaid.clear()
        if len(self._ours) > 2 * _SECONDS:
            oldest = int(self.now()) - _SECONDS
            self._ours = Counter({second: n for second, n in self._ours.items() if second >= oldest})

    def _sweep(self, page: _Page, now: float) -> None:
        """Count the tokens of processes that have died as if they had been used now."""
        for owner, (tokens, at) in list(page.slots.items()):
            if owner != self._owner and not now - LEASE < at <= now and self._find(owner[0]) != owner:
                del page.slots[owner]
                page.add(int(now), tokens)

    # the file

    @contextmanager
    def _page(self) -> Iterator[_Page | None]:
        """Yield the content under the lock, to be altered; None when it cannot be had now."""
        page = None if self.is_alone or not self._lock() else self._read()
        if page is None:
            yield None
            return
        try:
            yield page
            os.pwrite(self._descriptor, page.encode(self._boot), 0)
        except OSError as exc:
            self._give_up(exc)
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _lock(self) -> bool:
        for _ in range(_TRIES):
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_TRY_SECONDS)
            except OSError as exc:  # the file system has no locks
                self._give_up(exc)
                return False
            else:
                return True
        self.reserved = max(self.reserved, 1)  # a process that may be stopped holds it: nobody waits for that
        self._at = self.now()
        return False

    def _read(self) -> _Page | None:
        """Return the content; None, and the lock is given back, when it cannot be read."""
        try:
            data = os.pread(self._descriptor, _BYTES + 1, 0)
            page = _Page.read(data, self._boot)
            return page if page is not None else self._anew(data)
        except OSError as exc:
            self._give_up(exc)
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            return None

    def _anew(self, data: bytes) -> _Page:
        page = _Page()
        if data and abs(time.time() - os.fstat(self._descriptor).st_mtime) < self._window:
            page.add(int(self.now()), self._requests // 2)  # nobody knows the used count any more
        os.ftruncate(self._descriptor, 0)
        return page
