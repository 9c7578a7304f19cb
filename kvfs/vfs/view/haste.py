"""Decides how long to wait for the store where an older answer is known: a moment, or not while it is away."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from kvfs.cache.patience import StalePatience
from kvfs.vfs.view.known import Known

T = TypeVar("T")

_REFRESHED: Final = 10.0  # seconds after `Known.forget` in which the news is waited for


class Haste:
    """Shared by all reads of a mount. `patience` is endless until it is given another."""

    def __init__(self, known: Known) -> None:
        self._known = known
        self.patience = StalePatience(float("inf"))

    def is_patient(self) -> bool:
        """Return whether to wait for the store although an older answer is at hand: not after `forget`."""
        return self._known.now() - self._known.forgotten_at < _REFRESHED

    def does_for_now(self) -> bool:
        """Return whether what is known has to do: the store is away, or did not answer in time a moment ago."""
        return self.patience.is_away() or (self.patience.is_spent and not self.is_patient())

    async def ask(self, question: Callable[[], Awaitable[T]], *, hurried: bool) -> T:
        """Ask the store; `hurried`: an older answer is known, and does where this one takes long.

        Raises what the question raises, UnavailableError where it took too long.
        """
        if hurried and not self.is_patient():
            return await self.patience.ask(question)
        return await self.patience.rest(question)
