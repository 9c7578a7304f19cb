"""Files the kernel knows by number from a listing and that nobody used since, a million of them in little memory.

A node costs some 300 bytes with what finds it, and `find` over a large namespace makes the kernel know every
file in it. Here such a file is a number, its key (the listing's own text) and a count; it becomes a node when
the kernel names it.
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

from kvfs.core.model import Key, NamespaceId

_PAGE_BITS = 9
_PAGE = 1 << _PAGE_BITS  # numbers a page; one lets go of its memory when the last of them is gone


@dataclass(slots=True, eq=False)
class _Page:
    """Files of one namespace with consecutive numbers; `counts` are the kernel's lookups, 0: not here."""

    namespace: NamespaceId
    held: int = 0
    keys: list[Key | None] = field(default_factory=lambda: [None] * _PAGE)
    counts: "array[int]" = field(default_factory=lambda: array("I", bytes(_PAGE * array("I").itemsize)))


class Resting:
    """Numbers ↔ keys of files at rest."""

    def __init__(self) -> None:
        # Invariant: a number is in the page of its range and, by its key, in _numbers; or in neither.
        self._pages: dict[int, _Page] = {}
        self._numbers: dict[NamespaceId, dict[Key, int]] = {}
        self._held = 0

    def __len__(self) -> int:
        return self._held

    def add(self, ino: int, namespace: NamespaceId, key: Key, lookups: int) -> bool:
        """Let a file rest; false when it must stay a node: its neighbours are of another namespace."""
        page = self._pages.get(ino // _PAGE)
        if page is None:
            page = self._pages[ino // _PAGE] = _Page(namespace)
        elif page.namespace != namespace:
            return False
        page.keys[ino % _PAGE] = key
        page.counts[ino % _PAGE] = lookups
        page.held += 1
        self._held += 1
        self._numbers.setdefault(namespace, {})[key] = ino
        return True

    def number_of(self, namespace: NamespaceId, key: Key) -> int | None:
        """Return the number of a file at rest."""
        numbers = self._numbers.get(namespace)
        return numbers.get(key) if numbers else None

    def _page_of(self, ino: int) -> _Page | None:
        """Return the page that holds a number's file, None when none rests under it."""
        page = self._pages.get(ino // _PAGE)
        return page if page is not None and page.keys[ino % _PAGE] is not None else None

    def take(self, ino: int) -> tuple[NamespaceId, Key, int] | None:
        """Wake a file: return what it is, and the kernel's lookups. None when none rests under the number."""
        page = self._page_of(ino)
        if page is None:
            return None
        index = ino % _PAGE
        key = page.keys[index]
        assert key is not None
        found = page.namespace, key, page.counts[index]
        page.keys[index], page.counts[index] = None, 0
        page.held -= 1
        self._held -= 1
        if not page.held:
            del self._pages[ino // _PAGE]
        numbers = self._numbers[page.namespace]
        del numbers[key]
        if not numbers:  # a dict never shrinks
            del self._numbers[page.namespace]
        return found

    def shown_again(self, ino: int) -> bool:
        """Count one lookup more of a file that may rest here; return False when it does not."""
        page = self._page_of(ino)
        if page is None:
            return False
        page.counts[ino % _PAGE] += 1
        return True

    def show(self, namespace: NamespaceId, key: Key, guess: int) -> int | None:
        """Return the number of a file at rest, with one lookup more; `guess` is where it is if all lie in order."""
        page = self._pages.get(guess >> _PAGE_BITS)
        if page is not None and page.keys[guess & _PAGE - 1] is key and page.namespace == namespace:
            page.counts[guess & _PAGE - 1] += 1  # spares a look into a table of a million keys
            return guess
        numbers = self._numbers.get(namespace)
        ino = numbers.get(key) if numbers is not None else None
        if ino is not None:
            self._pages[ino >> _PAGE_BITS].counts[ino & _PAGE - 1] += 1
        return ino

    def forget(self, ino: int, count: int) -> bool:
        """Drop so many references of the kernel; return False when no file rests under the number."""
        page = self._page_of(ino)
        if page is None:
            return False
        if page.counts[ino % _PAGE] <= count:
            self.take(ino)
        else:
            page.counts[ino % _PAGE] -= count
        return True

    def below(self, namespace: NamespaceId, prefix: str) -> list[int]:
        """Return the numbers of files whose keys start with `prefix`."""
        numbers = self._numbers.get(namespace, {})
        return [number for key, number in numbers.items() if key.startswith(prefix)]

    def __iter__(self) -> Iterator[tuple[int, NamespaceId, Key]]:
        for namespace, numbers in self._numbers.items():
            for key, number in numbers.items():
                yield number, namespace, key

    def check_invariants(self) -> None:
        """Raise AssertionError when the two tables disagree."""
        for number, namespace, key in self:
            page = self._pages[number // _PAGE]
            assert (page.namespace, page.keys[number % _PAGE]) == (namespace, key)
            assert page.counts[number % _PAGE] > 0
        assert self._held == sum(len(numbers) for numbers in self._numbers.values())
        assert self._held == sum(page.held for page in self._pages.values())
