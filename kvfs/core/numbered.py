"""Objects by number, for numbers that are given one after the other, with little memory beside the objects."""

from collections.abc import Iterator
from typing import Final, Generic, TypeVar

T = TypeVar("T")

_BITS: Final = 6
_PAGE: Final = 1 << _BITS  # numbers a page; one goes when the last of its objects does
_LAST: Final = _PAGE - 1
_EMPTY: Final[list[None]] = [None] * _PAGE


class Numbered(Generic[T]):
    """A table from numbers to objects, in the order of the numbers; an object may not be None.

    An object takes nine bytes here, where a dict takes 24 to 105 and copies all of them as it grows. A table of which
    one number in 64 is left takes 600 bytes for each.
    """

    __slots__ = ("_count", "_is_sorted", "_pages")

    def __init__(self) -> None:
        # Invariants: each page has an object; with `_is_sorted` they are in the order of their numbers.
        self._pages: dict[int, list[T | None]] = {}
        self._count = 0
        self._is_sorted = True

    def __len__(self) -> int:
        return self._count

    def get(self, number: int) -> T | None:
        """Return the object of a number, None when there is none."""
        page = self._pages.get(number >> _BITS)
        return page[number & _LAST] if page is not None else None

    def __contains__(self, number: int) -> bool:
        return self.get(number) is not None

    def __getitem__(self, number: int) -> T:
        found = self.get(number)
        if found is None:
            raise KeyError(number)
        return found

    def __setitem__(self, number: int, item: T) -> None:
        page = self._pages.get(number >> _BITS)
        if page is None:
            page = self._begin(number >> _BITS)
        self._count += page[number & _LAST] is None
        page[number & _LAST] = item

    def _begin(self, index: int) -> list[T | None]:
        self._is_sorted = self._is_sorted and (not self._pages or next(reversed(self._pages)) < index)
        page = self._pages[index] = list(_EMPTY)
        return page

    def __delitem__(self, number: int) -> None:
        if self.pop(number) is None:
            raise KeyError(number)

    def pop(self, number: int) -> T | None:
        """Remove the object of a number and return it, None when there is none."""
        page = self._pages.get(number >> _BITS)
        found = page[number & _LAST] if page is not None else None
        if page is not None and found is not None:
            page[number & _LAST] = None
            self._count -= 1
            # the next one is looked at first, because objects go in order most often
            if page[number + 1 & _LAST] is None and page == _EMPTY:
                del self._pages[number >> _BITS]
        return found

    def values(self) -> Iterator[T]:
        """Yield the objects. The table must not change meanwhile, but for the objects of its numbers."""
        if not self._is_sorted:  # not before, because a million nodes may come back below a newer one
            self._pages = dict(sorted(self._pages.items()))
            self._is_sorted = True
        for page in self._pages.values():
            for item in page:
                if item is not None:
                    yield item
