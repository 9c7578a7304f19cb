"""The wall clock of a test: it stands still until it is told to move."""


class Clock:
    """Callable like `time.time`; `advance` moves it."""

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self.time = start

    def __call__(self) -> float:
        return self.time

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.time += seconds
