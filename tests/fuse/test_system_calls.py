"""System calls as the kernel makes them of several requests: each is answered within its bound, in every mood."""

import errno
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import SimpleNamespace

import pyfuse3
import pytest
import trio
from support.rig import Rig
from support.tokens import Fixed

from kvfs.core.callers import SLACK
from kvfs.core.errors import NoAnswerError, QuotaError, RateLimitedError, UnavailableError
from kvfs.core.model import Entry
from kvfs.daemon.build import layered
from kvfs.fuse.operations import Operations
from kvfs.fuse.system_calls import FAILED, GAP, QUEUED, SHARE, SystemCalls
from kvfs.store.ratelimit import Budget

BOUND = 10.0
LATEST = BOUND * (1 + SHARE) + SLACK + 0.01  # seconds after which a program has its answer, whatever happens


@dataclass(frozen=True)
class Context:
    """The context in which the kernel names the thread."""

    pid: int
    uid: int = 0


class Program:
    """Makes system calls as the kernel does them: it looks names up, asks for attributes that are not told, acts."""

    def __init__(self, ops: Operations, thread: int, directory: str) -> None:
        self.ops = ops
        self.ctx = Context(thread)
        self.directory = directory

    async def lookup(self, parent: int, name: str) -> pyfuse3.EntryAttributes:
        """Do LOOKUP; asks for the attributes of what has none that are good for a moment."""
        entry = await self.ops.lookup(parent, name.encode(), self.ctx)
        if entry.st_ino and entry.attr_timeout <= 0:
            await self.ops.getattr(entry.st_ino, self.ctx)
        return entry

    async def walk(self, path: str) -> int:
        """Return the inode at a path of the program's directory."""
        inode = pyfuse3.ROOT_INODE
        for name in f"ns/{self.directory}/{path}".rstrip("/").split("/"):
            inode = (await self.lookup(inode, name)).st_ino
            if not inode:
                raise pyfuse3.FUSEError(errno.ENOENT)
        return inode

    async def parted(self, path: str) -> tuple[int, bytes]:
        """Return the inode of the directory, and the name in it, which was looked up."""
        head, _, name = path.rpartition("/")
        parent = await self.walk(head)
        await self.ops.lookup(parent, name.encode(), self.ctx)
        return parent, name.encode()

    async def open(self, path: str, flags: int) -> None:
        await self.ops.open(await self.walk(path), flags, self.ctx)

    async def create(self, path: str) -> int:
        """Return the handle of a new file."""
        parent, name = await self.parted(path)
        info, _ = await self.ops.create(parent, name, 0o644, os.O_CREAT | os.O_WRONLY, self.ctx)
        return info.fh

    async def rename(self, old: str, new: str) -> None:
        (head, _, name), (new_head, _, new_name) = old.rpartition("/"), new.rpartition("/")
        source, goal = await self.walk(head), await self.walk(new_head)
        await self.ops.lookup(source, name.encode(), self.ctx)
        await self.ops.lookup(goal, new_name.encode(), self.ctx)
        await self.ops.rename(source, name.encode(), goal, new_name.encode(), 0, self.ctx)

    async def set(self, path: str, **attributes: int) -> None:
        fields = dict.fromkeys(("update_size", "update_mode", "update_mtime", "update_atime"), False)
        attr = SimpleNamespace(st_size=0, st_mode=0, st_mtime_ns=0, st_atime_ns=0)
        for name, value in attributes.items():
            fields[f"update_{name}"] = True
            setattr(attr, {"size": "st_size", "mtime": "st_mtime_ns"}[name], value)
        await self.ops.setattr(await self.walk(path), attr, SimpleNamespace(**fields), None, self.ctx)

    async def named(self, operation: str, path: str, *more: int) -> None:
        """Do UNLINK, RMDIR, MKDIR or MKNOD."""
        await getattr(self.ops, operation)(*await self.parted(path), *more, self.ctx)

    async def attribute(self, operation: str, *more: bytes) -> None:
        """Do a call for extended attributes."""
        await getattr(self.ops, operation)(await self.walk("f"), *more, self.ctx)

    async def at_root(self, operation: str, name: bytes, *more: object) -> None:
        await self.ops.lookup(pyfuse3.ROOT_INODE, name, self.ctx)
        await getattr(self.ops, operation)(pyfuse3.ROOT_INODE, name, *more, self.ctx)

    async def listed(self) -> None:
        """Do READDIR: a program has opened the directory by another call."""
        handle = await self.ops.opendir(await self.walk(""), self.ctx)
        await trio.sleep(1)  # the time of the program itself between two calls
        begun = trio.current_time()
        try:
            await self.ops.readdir(handle, 0, None)
        finally:
            assert trio.current_time() - begun <= LATEST


CALLS: dict[str, Callable[[Program], Awaitable[object]]] = {
    "stat": lambda p: p.walk("f"),
    "stat of nothing": lambda p: p.walk("nothing"),
    "open to read": lambda p: p.open("f", os.O_RDONLY),
    "open of a binary": lambda p: p.open("b.png", os.O_RDONLY),
    "open to append": lambda p: p.open("f", os.O_WRONLY | os.O_APPEND),
    "open to write": lambda p: p.open("f", os.O_WRONLY | os.O_TRUNC),
    "create": lambda p: p.create("new"),
    "deep": lambda p: p.open("below/further/deep", os.O_RDONLY),
    "mknod": lambda p: p.named("mknod", "made", 0o100644, 0),
    "unlink": lambda p: p.named("unlink", "f"),
    "mkdir": lambda p: p.named("mkdir", "made", 0o755),
    "rmdir": lambda p: p.named("rmdir", "below"),
    "rename": lambda p: p.rename("f", "g"),
    "rename to elsewhere": lambda p: p.rename("f", "below/further/g"),
    "rename of a directory": lambda p: p.rename("below", "above"),
    "truncate": lambda p: p.set("f", size=1),
    "utimens": lambda p: p.set("f", mtime=10**9),
    "getxattr": lambda p: p.attribute("getxattr", b"user.a"),
    "setxattr": lambda p: p.attribute("setxattr", b"user.a", b"1"),
    "listxattr": lambda p: p.attribute("listxattr"),
    "removexattr": lambda p: p.attribute("removexattr", b"user.a"),
    "mkdir at the root": lambda p: p.at_root("mkdir", b"more", 0o755),
    "rmdir at the root": lambda p: p.at_root("rmdir", b"empty"),
    "mv at the root": lambda p: p.at_root("rename", b"full", pyfuse3.ROOT_INODE, b"fuller", 0),
    "statfs": lambda p: p.ops.statfs(p.ctx),
}


class World:
    """A mount without a kernel, below the layers of the real API, which knows nothing yet."""

    def __init__(self, rig: Rig, budget: Budget) -> None:
        self.rig = rig
        self.budget = budget
        self.store = rig.store
        self.ops = Operations(rig.fs, uid=0, gid=0)

    async def time(self, name: str) -> tuple[int, float]:
        """Return the errno of a call (0: success), and the seconds it took."""
        places = list(CALLS)
        program = Program(self.ops, 100 + places.index(name), str(places.index(name)))
        begun, number = trio.current_time(), 0
        try:
            await CALLS[name](program)
        except pyfuse3.FUSEError as exc:
            number = exc.errno
        return number, trio.current_time() - begun

    async def time_all(self) -> dict[str, tuple[int, float]]:
        """Return `time` of all calls, made at once by a program each."""
        found = {}

        async def one(name: str) -> None:
            found[name] = await self.time(name)

        async with trio.open_nursery() as nursery:
            for name in CALLS:
                nursery.start_soon(one, name)
        return found


@pytest.fixture
async def world(tmp_path):
    """A namespace with a directory for each call; the mount has not seen it."""
    budget = Budget(requests=100_000)
    rig = Rig(tmp_path, timeout=BOUND)
    rig.layers = lambda store: layered(store, rig.config, Fixed(), budget)
    rig.open()
    try:
        namespace = (await rig.backend.create_namespace("ns")).id
        for title in ("empty", "full"):
            await rig.backend.create_namespace(title)
        keys = ("f", "below/deep", "below/further/deep")
        entries = {
            f"{place}/{key}": Entry(b"value", b'{"a": 1}') for place in range(len(CALLS)) for key in keys
        }
        entries |= {f"{place}/b.png": Entry(b"\xff") for place in range(len(CALLS))}
        await rig.backend.bulk_put(namespace, entries)
        async with rig.workers():
            yield World(rig, budget)
    finally:
        rig.close()


def used_up(world: World) -> None:
    world.budget.block(1000.0)


def used_up_after_one(world: World) -> None:
    """Each answer is followed by a block that ends just in time for the next call."""
    world.store.after("*", lambda call: world.budget.block(0.85 * BOUND))


def used_up_in_between(world: World) -> None:
    """A part of the time passes, then an answer, then nothing for long."""
    world.budget.block(0.6 * BOUND)
    world.store.after("*", lambda call: world.budget.block(1000.0))


def probed(world: World) -> None:
    """Nothing answers, and a moment ago something failed."""
    world.store.fail("*", NoAnswerError("no answer"), times=1)
    world.store.block("*")


MOODS: dict[str, Callable[[World], object]] = {
    "the budget is used up": used_up,
    "the budget is used up again and again": used_up_after_one,
    "the budget is used up in the midst of a call": used_up_in_between,
    "every answer takes long": lambda w: w.store.delay("*", 0.85 * BOUND),
    "every answer takes a while": lambda w: w.store.delay("*", 0.4 * BOUND),
    "nothing answers": lambda w: w.store.block("*"),
    "nothing answers, just after a failure": probed,
    "429 that says nothing": lambda w: w.store.fail("*", RateLimitedError("slow down", status=429)),
    "429 for five minutes": lambda w: w.store.fail(
        "*", RateLimitedError("slow down", status=429, retry_after=300.0)
    ),
    "503": lambda w: w.store.fail("*", UnavailableError("away", status=503)),
    "the quota of the day": lambda w: w.store.fail("*", QuotaError("used up", code=10048, status=429)),
}


@pytest.mark.parametrize("mood", MOODS)
async def test_each_call_is_answered_within_its_bound(world, autojump_clock, expect_log, mood):
    """All requests that the kernel makes of a call end together within the bound and a little, in every mood."""
    expect_log("")
    MOODS[mood](world)
    told = await world.time_all()
    assert {name: seconds for name, (_, seconds) in told.items() if seconds > LATEST} == {}
    fitting = {0, errno.EIO, errno.ETIMEDOUT, errno.ENOENT, errno.EDQUOT, errno.ENOTEMPTY}
    assert {name: number for name, (number, _) in told.items() if number not in fitting} == {}
    assert told["statfs"] == (0, 0.0)


@pytest.mark.parametrize("mood", ["the budget is used up", "429 that says nothing", "429 for five minutes"])
async def test_a_call_waits_for_the_limit_up_to_its_bound(world, autojump_clock, expect_log, mood):
    """While the limit of requests is used up, a call that may wait waits for its whole time, and then says why."""
    expect_log("the API asked to wait|slow down")
    MOODS[mood](world)
    number, seconds = await world.time("open to read")
    assert number == errno.EIO
    assert BOUND - 0.1 <= seconds <= BOUND


async def test_a_program_that_walks_for_long_waits_for_a_store_that_stalls(world, autojump_clock):
    """Names that are looked up one after the other are calls of their own, though each waits: none is short of time."""
    titles = [f"n{number}" for number in range(30)]
    for title in titles:
        await world.rig.backend.bulk_put(
            (await world.rig.backend.create_namespace(title)).id, {"f": Entry(b"1")}
        )
    slowness, program, begun = 0.07 * BOUND, Program(world.ops, 5, ""), trio.current_time()

    async def slow(call):
        await trio.sleep(slowness)

    world.store.before("*", slow)
    for title in titles:
        slowness = (0.6 if title == titles[-1] else 0.07) * BOUND
        inode = (await world.ops.lookup(pyfuse3.ROOT_INODE, title.encode(), program.ctx)).st_ino
        assert (await world.ops.lookup(inode, b"f", program.ctx)).st_ino
    assert trio.current_time() - begun > 2 * BOUND


# the rule by which requests belong together


@dataclass(frozen=True)
class Found:
    """The answer to a LOOKUP."""

    st_ino: int


LOOKED_UP = ("lookup", (1, b"f", None))

GOES_ON = {
    # a request that waited and its answer; the next one, after so many seconds; the time it has
    "the file found is opened": (LOOKED_UP, Found(7), ("open", (7, 0, None)), 0.0, 4.0),
    "another file is opened": (LOOKED_UP, Found(7), ("open", (8, 0, None)), 0.0, 10.0),
    "the walk goes on": (LOOKED_UP, Found(7), ("lookup", (7, b"g", None)), 0.0, 4.0),
    "the name is removed": (LOOKED_UP, Found(7), ("unlink", (1, b"f", None)), 0.0, 4.0),
    "another name there is removed": (LOOKED_UP, Found(7), ("unlink", (1, b"g", None)), 0.0, 4.0),
    "a name elsewhere is removed": (LOOKED_UP, Found(7), ("unlink", (2, b"f", None)), 0.0, 10.0),
    "an absent name is made": (LOOKED_UP, Found(0), ("mkdir", (1, b"f", 0o755, None)), 0.0, 4.0),
    "it was the second name": (LOOKED_UP, Found(7), ("rename", (2, b"g", 1, b"f", 0, None)), 0.0, 4.0),
    "attributes, then the file": (("getattr", (7, None)), Found(7), ("open", (7, 0, None)), 0.0, 4.0),
    "attributes of one, then of another": (
        ("getattr", (7, None)), Found(7), ("getattr", (8, None)), 0.0, 10.0
    ),
    "it failed, and is looked up once more": (LOOKED_UP, FAILED, LOOKED_UP, 0.0, 4.0),
    "it failed, and another name is looked up": (LOOKED_UP, FAILED, ("lookup", (1, b"g", None)), 0.0, 10.0),
    "a moment later": (LOOKED_UP, Found(7), ("open", (7, 0, None)), GAP / 2, 4.0 - GAP / 2),
    "later": (LOOKED_UP, Found(7), ("open", (7, 0, None)), GAP + 0.01, 10.0),
    "after what ends a call": (("open", (7, 0, None)), Found(7), ("setattr", (7, None)), 0.0, 10.0),
}  # fmt: skip


@pytest.mark.parametrize("case", GOES_ON)
def test_what_follows_at_once_and_names_what_was_found_has_the_rest_of_the_time(case):
    """A request of the same thread, at once after one that waited 6 of 10 s, and about its finding, has 4 s left."""
    (first, args), answer, (second, next_args), pause, left = GOES_ON[case]
    calls = SystemCalls(BOUND)
    calls.end(calls.begin(5, first, args, 100.0), first, args, answer, 106.0)
    now = 106.0 + pause
    moment = now + 2 * QUEUED
    assert calls.begin(6, second, next_args, moment).until - moment == BOUND, "another thread"
    assert calls.begin(5, second, next_args, now).until - now == pytest.approx(left)


def test_what_was_answered_at_once_in_between_does_not_part_a_call():
    """A name that is looked up without waiting leads on from the one before that waited, to the file that it found."""
    calls = SystemCalls(BOUND)
    calls.end(calls.begin(5, "lookup", (1, b"d", None), 100.0), "lookup", (1, b"d", None), Found(7), 106.0)
    calls.passed(5, "lookup", (7, b"f", None), Found(9), 106.0)
    assert calls.begin(5, "open", (9, 0, None), 106.0).until == 110.0
    calls.end(calls.begin(5, "lookup", (1, b"d", None), 100.0), "lookup", (1, b"d", None), Found(7), 106.0)
    calls.passed(5, "setxattr", (3, b"a", b"1", None), True, 106.0)
    assert calls.begin(5, "open", (7, 0, None), 106.0).until == 116.0


@pytest.mark.parametrize("steps", [1, 2, 5, 50])
def test_a_walk_ends_a_little_after_the_bound(steps):
    """A walk over many names, each waiting as long as it may, ends by the bound and a little."""
    calls, now = SystemCalls(BOUND), 100.0
    for step in range(steps):
        args = (step, b"name", None)
        call = calls.begin(5, "lookup", args, now)
        now = max(now, call.until - 0.01)
        calls.end(call, "lookup", args, Found(step + 1), now)
    assert now - 100.0 <= BOUND * (1 + SHARE)


def test_a_call_of_its_own_is_never_starved():
    """Names that have nothing to do with each other have at least a part of the bound, each."""
    calls, now = SystemCalls(BOUND), 100.0
    for step in range(20):
        args = (1, b"%d" % step, None)
        call = calls.begin(5, "lookup", args, now)
        assert call.until - now >= BOUND * SHARE - 0.001
        now = call.until
        calls.end(call, "lookup", args, Found(100 + step), now)


def test_a_program_that_tries_again_and_again_has_its_whole_time_again():
    """A name that fails is looked up once more with the rest of the time only once, since the kernel does it once."""
    calls, now, given = SystemCalls(BOUND), 100.0, []
    for _ in range(4):
        call = calls.begin(5, *LOOKED_UP, now)
        given.append(call.until - now)
        now = call.until
        calls.end(call, *LOOKED_UP, FAILED, now)
    assert given == pytest.approx([BOUND, BOUND * SHARE, BOUND, BOUND * SHARE])


def test_threads_that_never_come_back_are_forgotten():
    """Only so many threads are remembered, and those of the last moment among them."""
    calls = SystemCalls(BOUND)
    for thread in range(1, 5001):
        now = 100.0 + thread
        calls.end(calls.begin(thread, *LOOKED_UP, now - 1), *LOOKED_UP, Found(7), now)
    assert len(calls.latest) <= 512
    assert 5000 in calls.latest


def test_a_request_that_waited_in_the_kernel_has_no_more_time_than_the_one_it_waited_for():
    """Names in one directory are asked for in turn: who waited behind one that failed late fails with it."""
    calls, now = SystemCalls(BOUND), 100.0
    for thread in range(1, 30):
        name = ("lookup", (1, b"%d" % thread, None))
        call = calls.begin(thread, *name, now)
        now = max(now, call.until) + QUEUED / 10
        calls.end(call, *name, FAILED, now)
    assert now - 100.0 < BOUND + 0.1
    for operation, args, pause in (
        ("lookup", (1, b"later", None), QUEUED * 2),
        ("lookup", (2, b"elsewhere", None), 0.0),
        ("open", (1, 0, None), 0.0),
    ):
        assert calls.begin(99, operation, args, now + pause).until == now + pause + BOUND


@pytest.mark.parametrize("names_are_looked_up", [False, True])
def test_renames_between_directories_that_wait_for_each_other_end_together(names_are_looked_up):
    """The kernel makes one of them at a time in a whole mount, so the next one has waited as long as the first."""
    calls, now = SystemCalls(BOUND), 100.0
    for thread in range(1, 30):
        move = ("rename", (10 * thread, b"f", 10 * thread + 1, b"f", 0, None))
        name = ("lookup", (10 * thread, b"f", None))
        asked = name if names_are_looked_up and thread > 1 else move
        call = calls.begin(thread, *asked, now)
        now = max(now, call.until) + QUEUED / 10
        calls.end(call, *asked, FAILED, now)
        if call.until > 100.0 + BOUND:
            break
    assert now - 100.0 < BOUND + 0.1
    within = ("rename", (7, b"f", 7, b"g", 0, None))
    assert calls.begin(99, *within, now).until == now + BOUND
    between = ("rename", (7, b"f", 8, b"f", 0, None))
    assert calls.begin(98, *between, now + 2 * QUEUED).until == now + 2 * QUEUED + BOUND


def test_a_request_that_waited_for_one_that_was_answered_has_a_part_of_the_bound():
    """A request that waited behind a name that was found has the rest of its time, and at least a part of the bound."""
    calls = SystemCalls(BOUND)
    for thread, seconds, left in ((1, 6.0, 4.0), (2, 9.9, BOUND * SHARE)):
        call = calls.begin(thread, *LOOKED_UP, 100.0)
        calls.end(call, *LOOKED_UP, Found(7), 100.0 + seconds)
        behind = calls.begin(thread + 10, "unlink", (1, b"g", None), 100.0 + seconds)
        assert behind.until - (100.0 + seconds) == pytest.approx(left)


# calls of their own that follow each other quickly


def test_a_program_that_looks_again_and_again_has_its_whole_time_after_a_while():
    """A request that waited counts for what follows at once; answers without a wait in between do not prolong that."""
    calls = SystemCalls(BOUND)
    calls.end(calls.begin(5, *LOOKED_UP, 100.0), *LOOKED_UP, Found(7), 103.0)
    for moment in range(200):
        calls.passed(5, "getattr", (7, None), True, 103.0 + moment / 10)
        calls.passed(5, *LOOKED_UP, Found(7), 103.0 + moment / 10)
    for operation, args in (LOOKED_UP, ("getattr", (7, None)), ("lookup", (1, b"g", None))):
        assert calls.begin(5, operation, args, 123.0).until == 123.0 + BOUND
        calls.end(calls.begin(5, *LOOKED_UP, 100.0), *LOOKED_UP, Found(7), 103.0)


@pytest.mark.parametrize(
    "name_of",
    [
        lambda step: ("lookup", (1, b"%d" % step, None)),
        lambda step: ("lookup", (step, b"f", None)),
        lambda step: LOOKED_UP,
        lambda step: ("getattr", (7, None)),
    ],
    ids=["names of a directory", "names of many", "one name", "attributes of one file"],
)
def test_a_program_that_asks_the_store_for_long_is_not_short_of_time(name_of):
    """Each of many short waits in a row is a call of its own, and has most of the bound for a store that stalls."""
    calls, now = SystemCalls(BOUND), 100.0
    for step in range(2000):
        operation, args = name_of(step)
        call = calls.begin(5, operation, args, now)
        assert call.until - now > BOUND / 2
        now += 0.3
        calls.end(call, operation, args, Found(10_000 + step), now)


def test_what_is_answered_at_once_lets_no_other_thread_wait_less():
    """Only who waits in the kernel behind a request that waited has a part of the bound."""
    calls = SystemCalls(BOUND)
    calls.end(calls.begin(5, *LOOKED_UP, 100.0), *LOOKED_UP, Found(7), 109.9)
    now = 109.9 + GAP / 2
    calls.passed(5, "lookup", (1, b"g", None), Found(8), now)
    assert calls.begin(6, "lookup", (1, b"h", None), now).until == now + BOUND


@pytest.mark.parametrize("threads", [2, 8])
def test_threads_that_failed_together_have_their_time_again(threads):
    """Each thread fails once behind one that failed late; what it calls then has its whole time."""
    calls = SystemCalls(BOUND)
    call = calls.begin(1, *LOOKED_UP, 100.0)
    now, at_once = call.until, 0
    calls.end(call, *LOOKED_UP, FAILED, now)
    for step in range(10 * threads):
        now += QUEUED / 4
        thread = 2 + step % threads
        name = ("lookup", (1, b"%d" % step, None))
        call = calls.begin(thread, *name, now)
        if call.until > now:
            continue
        at_once += 1
        calls.end(call, *name, FAILED, now)
    assert at_once <= threads


def test_processes_that_come_and_go_do_not_fail_for_ever():
    """New threads, of which none waited, fail behind each other for a moment only."""
    calls = SystemCalls(BOUND)
    call = calls.begin(1, *LOOKED_UP, 100.0)
    now = begun = call.until
    calls.end(call, *LOOKED_UP, FAILED, now)
    for thread in range(2, 10_000):
        now += QUEUED / 2
        name = ("lookup", (1, b"%d" % thread, None))
        call = calls.begin(thread, *name, now)
        if call.until > now:
            break
        calls.end(call, *name, FAILED, now)
    assert now - begun <= GAP + QUEUED
