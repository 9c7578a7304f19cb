"""Values that stay in memory: because something holds them, or until Python looks for cycles."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import Struct

UNTRACKED = (dict, tuple, Struct)  # Python does not list all of these


@contextmanager
def nothing_left(*, of: int) -> Iterator[None]:
    """Fail if what runs within leaves a value of `of` bytes or more in memory. It must not keep one itself."""
    gc.collect()
    gc.disable()
    try:
        before = _values(of)
        yield
        left = {at: size for at, size in _values(of).items() if at not in before}
    finally:
        gc.enable()
    assert not left, f"{len(left)} values, {sum(left.values())} bytes"


def _values(least: int) -> dict[int, int]:
    """Return the sizes of the values that are held, by their addresses."""
    waiting, seen, found = gc.get_objects(), set[int](), dict[int, int]()
    while waiting:
        for held in _referents(waiting.pop()):
            if isinstance(held, bytes):
                found[id(held)] = len(held)
            elif isinstance(held, UNTRACKED) and not gc.is_tracked(held) and id(held) not in seen:
                seen.add(id(held))
                waiting.append(held)
    return {at: size for at, size in found.items() if size >= least}


def _referents(owner: object) -> list[object]:
    if isinstance(owner, Struct):  # Python does not know what those without `gc` hold
        return [getattr(owner, name) for name in owner.__struct_fields__]
    return gc.get_referents(owner)
