"""Resting files, which a listing showed to the kernel: they take little memory until the kernel names them."""

import pytest

from kvfs.core.errors import StaleError
from kvfs.core.model import Key, NamespaceId
from kvfs.vfs.inode.nodes import Root
from kvfs.vfs.inode.table import InodeTable

ONE, TWO = NamespaceId("1" * 32), NamespaceId("2" * 32)


def listed(table: InodeTable, key: str, namespace: NamespaceId = ONE) -> int:
    """Have a listing show a key; return its number."""
    node = table.file(namespace, Key(key))
    table.listed.show(node)
    table.check_invariants()
    return node.ino


def test_a_listed_file_rests_and_wakes_as_the_same_file() -> None:
    """A listed file wakes with its number, key and count, by whatever call of kernel or mount."""
    table = InodeTable(Root(1))
    ino = listed(table, "a")
    assert len(table._registry.resting) == 1
    assert listed(table, "a") == ino
    assert len(table._registry.resting) == 1
    node = table.get(ino)
    assert (node.ino, node.lookups, table.peek_file(ONE, Key("a"))) == (ino, 2, node)
    assert len(table._registry.resting) == 0
    assert listed(table, "a") == ino
    assert table.get(ino) is node, "somebody holds it: it must not be made anew"
    assert node.lookups == 3


def test_a_file_that_rests_is_forgotten_by_count() -> None:
    """A file that rests is gone when the kernel gave back every reference, and its number is never used again."""
    table = InodeTable(Root(1))
    ino = listed(table, "a")
    listed(table, "a")
    table.forget(ino, 1)
    table.check_invariants()
    assert table.find(ino) is not None
    table.forget(ino, 1)
    with pytest.raises(StaleError):
        table.get(ino)
    assert listed(table, "a") > ino
    assert table.count == 2


def test_neighbours_of_several_namespaces_and_many_pages() -> None:
    """Every file of several namespaces and many pages is found, resting or not, until all is forgotten."""
    table = InodeTable(Root(1))
    numbers = [listed(table, f"{n:04}", ONE if n % 3 else TWO) for n in range(300)]
    for n in range(300, 2000):
        node = table.file(ONE, Key(f"{n:04}"))
        table.listed.show(node)
        numbers.append(node.ino)
    table.check_invariants()
    assert len(set(numbers)) == 2000
    assert table.count == 2001
    assert len(table.names.below(ONE, "19")[0]) == 100
    for number in numbers:
        table.forget(number, 1)
    table.check_invariants()
    assert table.count == 1
    assert not table._registry.resting._pages


def test_a_file_that_somebody_holds_does_not_rest() -> None:
    """A file that is held does not rest: made by a lookup and shown by a listing, it is one node."""
    table = InodeTable(Root(1))
    node = table.file(ONE, Key("a"))
    table.file(ONE, Key("b"))
    assert listed(table, "a") == node.ino
    assert table.find(node.ino) is node


async def test_what_a_listing_showed_is_changed_like_anything_else(mount, kernel) -> None:
    """A file that a listing showed is written, renamed with its directory, removed and listed again like any other."""
    for number in range(5):
        await mount.other(f"d/{number}", b"x")
    assert len(await kernel.listdir("/ns/d")) == 5
    mount.check()
    await kernel.write("/ns/d/1", b"longer")
    await kernel.rename("/ns/d/2", "/ns/d/3")
    await kernel.unlink("/ns/d/4")
    await kernel.rename("/ns/d", "/ns/e")
    assert sorted(await kernel.listdir("/ns/e")) == ["0", "1", "3"]
    assert await kernel.read("/ns/e/1") == b"longer"
    await mount.drain()
    assert sorted(await mount.stored()) == ["e/0", "e/1", "e/3"]
