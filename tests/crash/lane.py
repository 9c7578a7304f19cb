"""The promises to one writer, from its log: the states that its files may have, and those of the server.

The operations of a lane follow each other, so a kill meets one at most: its files are then all as before it, or all as
after it. The server may be behind the files, but never behind an fsync, nor behind its own earlier state.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from errno import EEXIST, ENOENT, ENOTEMPTY

from crash.writer import DIRECTORIES, NAMES, content


class Violation(AssertionError):
    """A promise was broken."""


@dataclass(frozen=True)
class State:
    """A file. `exps` are the expirations it may have, exactly one unless a kill left it open."""

    value: bytes
    m: int | None
    exps: frozenset[int | None]

    def is_like(self, other: "State | None") -> bool:
        """Return True if `other`, as it was found, equals this state."""
        return (
            other is not None and (other.value, other.m) == (self.value, self.m) and other.exps <= self.exps
        )

    def __repr__(self) -> str:
        return f"{self.value[:24]!r} ({len(self.value)} bytes, m={self.m}, exp={sorted(map(str, self.exps))})"


World = dict[str, State]
Found = Mapping[str, State]
NEVER = frozenset({None})


def after(world: World, op: dict, left: Mapping[str, frozenset[int | None]]) -> World:
    """Return the world after an operation; `left` are the expirations of files renamed away, which may be inherited."""
    kind, name, number = op["kind"], op["name"], op["start"]
    new = dict(world)
    if kind == "mvdir":
        return dict(_moved(world, name))
    old = world.get(name)
    if kind == "create":
        new[name] = State(content(number, op["size"]), number, NEVER | left.get(name, NEVER))
    elif kind == "unlink":
        new.pop(name, None)
    elif old is None:
        raise Violation(f"{kind} of {name!r} succeeded, though it was not there")
    elif kind == "rewrite":
        new[name] = replace(old, value=content(number, op["size"]))
    elif kind == "append":
        new[name] = replace(old, value=old.value + content(number, op["size"]))
    elif kind == "truncate":
        new[name] = replace(old, value=old.value[: op["size"]].ljust(op["size"], b"\0"))
    elif kind == "setxattr":
        new[name] = replace(old, m=number)
    elif kind == "utimens":
        new[name] = replace(old, exps=frozenset({op["exp"]}))
    elif kind == "rename":
        to = op["to"]
        inherited = world[to].exps if to in world else left.get(to, NEVER)
        exps = old.exps - NEVER | inherited | NEVER if None in old.exps else old.exps
        new[to] = replace(new.pop(name), exps=exps)
    return new


def _moved(world: World, directory: str) -> Iterator[tuple[str, State]]:
    other = DIRECTORIES[1 - DIRECTORIES.index(directory)]
    for name, state in world.items():
        inside = name.startswith(directory + "/")
        yield (other + name[len(directory) :] if inside else name), state


def check_refusal(world: World, op: dict, errno: int) -> None:
    """Check that an operation was refused for a reason: its names must call for that errno."""
    kind, name = op["kind"], op["name"]
    if kind == "mvdir":
        other = DIRECTORIES[1 - DIRECTORIES.index(name)]
        inside = any(found.startswith(name + "/") for found in world)
        blocked = any(found.startswith(other + "/") for found in world)
        right = {ENOENT: not inside, ENOTEMPTY: blocked}.get(errno, False)
    elif kind == "create":
        right = errno == EEXIST and name in world
    else:
        right = errno == ENOENT and name not in world
    if not right:
        raise Violation(f"{op} was refused with errno {errno}, with {sorted(world)} there")


@dataclass
class Entry:
    """A state that the server may have of a name, and the operation that made it."""

    number: int
    state: State | None


@dataclass
class Lane:
    """One writer's promises."""

    world: World = field(default_factory=dict)
    maybe: World | None = None
    """The world after the operation that was open at the kill."""
    history: dict[str, list[Entry]] = field(
        default_factory=lambda: {name: [Entry(0, None)] for name in NAMES}
    )
    renames: list[tuple[int, str, str]] = field(default_factory=list)
    open_number: int | None = None
    promised: int = 0
    serial: int = 1

    def replay(self, lines: list[dict]) -> None:
        """Follow a round's log. Raise `Violation` when an operation itself shows a broken promise."""
        op: dict | None = None
        left: dict[str, frozenset[int | None]] = {}
        synced: list[int] = []
        for line in lines:
            if "start" in line:
                op, self.serial = line, line["start"] + 1
            elif "synced" in line:
                synced.append(line["synced"])
            elif "done" in line:
                before, self.world = self.world, after(self.world, op, left)
                self._record(op, before, self.world)
                self._leave(op, before, left)
                self.promised += 1
                last, op = op, None
            elif "seen" in line:
                self._see(last, line["exp"])
            elif "failed" in line:
                check_refusal(self.world, op, line["errno"])
                op = None
        if op is not None:
            self._open(op, left)
        for number in synced:
            self._synced(number)

    def _open(self, op: dict, left: Mapping[str, frozenset[int | None]]) -> None:
        if op["kind"] not in ("create", "mvdir") and op["name"] not in self.world:
            return  # it would have been refused
        if op["kind"] == "create" and op["name"] in self.world:
            return
        if op["kind"] == "mvdir":
            try:
                check_refusal(self.world, op, ENOTEMPTY)
                return
            except Violation:
                pass
        self.maybe = after(self.world, op, left)
        self.open_number = op["start"]
        self._record(op, self.world, self.maybe)

    @staticmethod
    def _leave(op: dict, before: World, left: dict[str, frozenset[int | None]]) -> None:
        """Remember the expirations that a file made anew may inherit."""
        if op["kind"] == "rename":
            left[op["name"]] = left.get(op["name"], NEVER) | before[op["name"]].exps

    def _see(self, op: dict, exp: int | None) -> None:
        name = op.get("to", op["name"])
        seen = frozenset({exp})
        state = self.world[name]
        if not seen <= state.exps:
            raise Violation(f"{name!r} has the expiration {exp} after {op}, not one of {state.exps}")
        self.world[name] = replace(state, exps=seen)
        self.history[name][-1].state = self.world[name]

    def _record(self, op: dict, before: World, now: World) -> None:
        number = op["start"]
        for name in NAMES:
            if before.get(name) is not now.get(name):
                self.history[name].append(Entry(number, now.get(name)))
        if op["kind"] == "rename":
            self.renames.append((number, op["name"], op["to"]))
        elif op["kind"] == "mvdir":
            gone = [name for name in before if name.startswith(op["name"] + "/")]
            other = DIRECTORIES[1 - DIRECTORIES.index(op["name"])]
            self.renames += [(number, name, other + name[len(op["name"]) :]) for name in gone]

    def _synced(self, number: int) -> None:
        """Note that the server has the write of operation `number`, or a newer one; the close after it adds nothing."""
        if self.maybe is not None and self.open_number == number:
            self.world, self.maybe, self.open_number = self.maybe, None, None
        for entries in self.history.values():
            if any(entry.number == number for entry in entries):
                entries[:] = [entry for entry in entries if entry.number >= number]

    # findings

    def check_mount(self, found: Found) -> None:
        """Check the files as the mount shows them; from here on the operation of the kill has happened, or has not."""
        if self.maybe is not None and not _differences(self.maybe, found):
            self.world = self._settled(self.maybe, found)
        elif problems := _differences(self.world, found):
            raise Violation("the mount shows " + "; ".join(problems) + self._both())
        else:
            self.world = self._settled(self.world, found)
            self._forget_open()
        self.maybe = self.open_number = None

    def _both(self) -> str:
        return f" (operation {self.open_number} was open)" if self.maybe is not None else ""

    def _settled(self, world: World, found: Found) -> World:
        """Return the files with the expirations that they were found to have."""
        settled = {name: replace(state, exps=found[name].exps) for name, state in world.items()}
        for name, state in settled.items():
            if (entry := self.history[name][-1]).state is world[name]:
                entry.state = state
        return settled

    def _forget_open(self) -> None:
        if self.open_number is not None:
            for entries in self.history.values():
                entries[:] = [entry for entry in entries if entry.number != self.open_number] or entries
            self.renames = [found for found in self.renames if found[0] != self.open_number]

    def check_server(self, found: Found) -> None:
        """Check that the server is behind neither its earlier state nor an fsync, and has one name of a rename."""
        if extra := set(found) - set(NAMES):
            raise Violation(f"the server has {sorted(extra)}, which nobody wrote")
        first, last = {}, {}
        for name, entries in self.history.items():
            fitting = [entry.number for entry in entries if _fits(entry.state, found.get(name))]
            if not fitting:
                expected = [(entry.number, entry.state) for entry in entries]
                raise Violation(f"the server has {name!r} as {found.get(name)}, not one of {expected}")
            first[name], last[name] = fitting[0], fitting[-1]
        for number, old, new in self.renames:
            gone = any(entry.number > number and entry.state is None for entry in self.history[new])
            if first[old] == last[old] == number and last[new] < number and not gone:
                raise Violation(f"rename {number}: the server has lost {old!r} before it got {new!r}")
        for name, entries in self.history.items():
            entries[:] = [entry for entry in entries if entry.number >= first[name]]
        self.renames = [one for one in self.renames if first[one[1]] < one[0] or last[one[2]] < one[0]]

    def check_drained(self, found: Found, where: str) -> None:
        """Check the server after everything was sent: it must have exactly the newest state."""
        if problems := _differences(self.world, found):
            raise Violation(f"after everything was sent, {where} has " + "; ".join(problems))
        self.history = {name: [Entry(0, self.world.get(name))] for name in NAMES}
        self.renames = []


def _fits(state: State | None, found: State | None) -> bool:
    return found is None if state is None else state.is_like(found)


def _differences(world: World, found: Found) -> list[str]:
    return [
        f"{name!r} as {found.get(name)}, not as {world.get(name)}"
        for name in sorted({*world, *found})
        if not _fits(world.get(name), found.get(name))
    ]
