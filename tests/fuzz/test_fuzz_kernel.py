"""Arbitrary input from programs through the kernel: names, xattrs, times. Only errors with an errno come out."""

import contextlib
import json

import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from support.fuzzing import JSON, ODD_TEXT, almost, fuzzed, slowly_fuzzed
from support.journal_check import check_journal
from support.rig import open_rig

from kvfs.core import xattrs
from kvfs.core.errors import FileError, InvalidError
from kvfs.core.expiry import expiration_for_mtime, mtime_of
from kvfs.core.names import DirRef, Naming, title_of
from kvfs.vfs.answers import answered
from kvfs.vfs.view.types import Changes

NAMES = st.binary(min_size=1, max_size=60).map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"_")) | (
    st.sampled_from(
        [b".", b"..", b"%", b"%self", b"%+", b"a%+", b"%2F", b"%00", b"%252F", b"x" * 255, b"x" * 252 + b"%+", b"%2E",
         b"\xff", b"\xed\xa0\x80", b".kvfs", b"%2Ekvfs", b"\xc3\xa9" * 127]
    )
)  # fmt: skip
DOCUMENTS = JSON.map(lambda value: json.dumps(value).encode()) | almost(b'{"a":1,"b":"c"}', b'"x"', b"[1]")
ATTRIBUTES = st.sampled_from(
    ["user.a", "user.", "user.kvfs.metadata", "user.kvfs.ttl", "user.kvfs.key", "user.kvfs.", "security.capability",
     "trusted.a", "", "user." + "a" * 300, "user.\ud800"]
) | ODD_TEXT.map(lambda text: "user." + text)  # fmt: skip


@fuzzed
@given(
    name=NAMES, separator=st.sampled_from(["/", ":", "", "::", "%", "."]), below=st.lists(NAMES, max_size=3)
)
def test_a_name_leads_to_a_child_or_an_errno(name, separator, below):
    """Any name in the root, or below any directory that names can lead to, gives a child or an errno."""
    with contextlib.suppress(InvalidError):
        naming = Naming(separator, frozenset())
        ref = DirRef.ROOT
        for step in (*below, name):
            try:
                child = naming.child(ref, step)
            except FileError:
                return
            if child.key is not None:
                assert len(child.key.encode()) <= 512
            if child.directory is None:
                return
            ref = child.directory


@fuzzed
@given(name=ODD_TEXT)
def test_a_name_at_the_root_is_a_title_or_an_errno(name):
    """mkdir at the root makes a title of any name, or gives an errno."""
    with contextlib.suppress(FileError):
        assert 0 < len(title_of(name)) <= 512


@fuzzed
@given(metadata=st.none() | DOCUMENTS, name=ATTRIBUTES, value=st.binary(max_size=80) | DOCUMENTS)
def test_attributes_of_any_metadata_are_answered_or_refused(metadata, name, value):
    """Metadata of another client may be any JSON, or none: its attributes are answered or refused."""
    for call in (
        lambda: xattrs.list_names(metadata),
        lambda: xattrs.get(metadata, name),
        lambda: xattrs.set(metadata, name, value),
        lambda: xattrs.remove(metadata, name),
    ):
        with contextlib.suppress(FileError):
            call()


@fuzzed
@given(metadata=st.none() | DOCUMENTS, name=ATTRIBUTES, value=st.binary(max_size=80) | DOCUMENTS)
def test_what_was_set_is_read_back(metadata, name, value):
    """A value that is accepted means the same afterwards, and setting what was read changes nothing."""
    try:
        after = xattrs.set(metadata, name, value)
        shown = xattrs.get(after, name)
    except FileError:
        return
    assert xattrs.get(xattrs.set(after, name, shown), name) == shown


@fuzzed
@given(mtime=st.integers(-(2**63), 2**63 - 1), now=st.floats(0, 2**33), expiration=st.none() | st.integers())
def test_any_time_is_an_expiration_or_refused(mtime, now, expiration):
    """Any 64-bit second of utimensat becomes an expiration or is refused."""
    with contextlib.suppress(FileError):
        found = expiration_for_mtime(mtime, now)
        assert found is None or found >= now
    mtime_of(expiration, int(now))


CALLS = st.tuples(
    st.sampled_from(
        ["lookup", "create", "mkdir", "unlink", "rmdir", "rename", "setxattr", "getxattr", "utime", "list"]
    ),
    st.sampled_from([b"a", b"b"]) | NAMES,  # some that meet what was made before
    st.sampled_from([b"a", b"b"]) | NAMES,
    ATTRIBUTES,
    st.binary(max_size=40) | DOCUMENTS,
    st.integers(-(2**40), 2**40),
)


@slowly_fuzzed
@given(calls=st.lists(CALLS, min_size=1, max_size=15))
def test_no_sequence_of_calls_breaks_the_file_system(tmp_path_factory, calls):
    """Below the adapter, every call answers or raises an error with an errno, and the invariants hold."""
    base = tmp_path_factory.mktemp("fuzz")

    async def main() -> None:
        async with open_rig(base) as rig:
            root = (await answered(rig.fs.tree.lookup(1, b"ns"))).ino
            for call in calls:
                with contextlib.suppress(FileError):
                    await _call(rig.fs, root, *call)
                rig.fs.check_invariants()
                check_journal(rig.journal)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def _call(fs, root: int, what: str, one: bytes, two: bytes, name: str, value: bytes, time: int) -> None:
    if what == "create":
        making = fs.create(root, one, mode=0o644, exclusive=False, truncate=False, append=False)
        number = (await answered(making))[1].number
        try:
            fs.files.contents.write(number, abs(time) % 100, value)
            await answered(fs.files.flush(number))
        finally:
            await answered(fs.files.release(number))
    elif what in ("lookup", "mkdir", "unlink", "rmdir"):
        await answered(getattr(fs.tree, what)(root, one, *([0o755] if what == "mkdir" else [])))
    elif what == "rename":
        await fs.renames.rename(root, one, root, two, no_replace=bool(time % 2))
    elif what == "list":
        handle = fs.handles.directory(await answered(fs.directories.opendir(root)))
        offsets = [0]
        while offsets[-1] not in offsets[:-1]:
            start = offsets[-1]
            await answered(fs.readdir.read(handle, start, lambda *told: offsets.append(told[2]) or True))
            if offsets[-1] == start:
                break
    else:
        node = await answered(fs.tree.lookup(root, one))
        if node is None:
            return
        if what == "utime":
            await fs.attributes.setattr(node, Changes(mtime_ns=time))
        elif what == "setxattr":
            await fs.xattrs.set(node, name, value)
        else:
            await fs.xattrs.get(node, name)
