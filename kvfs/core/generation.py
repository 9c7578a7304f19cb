"""Generations: numbers that grow with each change, so that whoever remembers one notices that something happened."""


class Generation:
    """The number of changes of one fact: its owner bumps it, and others compare `number` with what they remember.

    That time passes is no change; `core/freshness` is about that.
    """

    __slots__ = ("number",)

    def __init__(self) -> None:
        self.number = 0

    def bump(self) -> None:
        """Count one more change: the number is never the same again."""
        self.number += 1
