"""Generations: numbers that grow with each change, so that whoever remembers one notices that something happened."""


class Generation:
    """Counts of changes, by name: the owner bumps one, and others compare it with what they remember.

    That time passes is no change; `core/freshness` is about that.
    """

    __slots__ = ("_counts",)

    def __init__(self, *names: str) -> None:
        self._counts = dict.fromkeys(names, 0)

    def bump(self, name: str) -> None:
        """Count one more change. An unknown name raises KeyError."""
        self._counts[name] += 1

    def of(self, *names: str) -> int:
        """Return the number of changes of these names; it is never the same again after one of them."""
        number = 0
        for name in names:
            number += self._counts[name]
        return number
