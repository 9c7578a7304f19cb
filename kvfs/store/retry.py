"""Retrying: a Store around a Store that repeats what may pass the next time, within a bound."""

import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

import trio

from kvfs.core.callers import call_ends
from kvfs.core.errors import (
    BlockedError,
    BodyTooLargeError,
    NamespaceNotFoundError,
    NoAnswerError,
    OutOfTimeError,
    RateLimitedError,
    TitleExistsError,
    UnavailableError,
    UnknownRefusalError,
    UnreachableError,
    UntrustedError,
    without_frames,
)
from kvfs.core.model import Namespace, NamespaceId
from kvfs.store.base import Store
from kvfs.store.bulkread import may_be_one_key
from kvfs.store.ratelimit import TELLING
from kvfs.store.wrapper import Around, StoreCall

A = TypeVar("A")
T = TypeVar("T")

FIRST_WAIT: Final = 0.25  # seconds at most before the second attempt; doubles with each
LONGEST_WAIT: Final = 20.0  # seconds at most between two attempts, unless the server asks for more
ENOUGH: Final = 0.5  # the part of its time after which a call that has no answer tells of the service
FEW: Final = 2  # attempts for what the same request will hardly cure

log = logging.getLogger("kvfs.store")


class Retrying(Around):
    """Repeats calls that failed with `UnavailableError`: `attempts` in all, within `deadline` seconds.

    The waits grow exponentially, with jitter; `retry_after` comes on top when the server asked for it. When
    the next attempt would lie beyond the deadline, or none is left, the last error is raised as it is; a call
    that has no answer by the deadline is cancelled and raises `UnavailableError`. The deadline is never later than
    the end of the system call that is waited for: a call that had less than `ENOUGH` of its time raises
    `OutOfTimeError`, which says nothing about the service.
    With `stays`, a call that was refused for its rate waits until the deadline before it fails, because a program
    that fails at once would go on and fail at everything.
    Never repeated: what the server refuses, a certificate that is not accepted, and `BodyTooLargeError`, which
    wants smaller pieces, as does a bulk get of several keys that had no answer or was stopped. Repeated once: what a
    firewall stopped, an unknown refusal, and a bulk get of several keys that was answered with an error, because one
    of its keys may be the reason. A read of one key that has no answer is made `silences` times in all.
    """

    def __init__(
        self,
        store: Store,
        *,
        attempts: int,
        deadline: float,
        silences: float = float("inf"),
        stays: bool = False,
    ) -> None:
        super().__init__(store)
        self._attempts = attempts
        self._stays = stays
        self._silences = silences
        self._deadline = deadline

    async def create_namespace(self, title: str) -> Namespace:
        """See `Store`. A title that exists after an attempt whose answer was lost is taken for ours."""
        creation = _Unrepeatable(self._store.create_namespace)
        try:
            return await self._call(StoreCall("create_namespace", creation, (title,)))
        except TitleExistsError:
            if not creation.answer_lost:
                raise
            for namespace in await self.list_namespaces():
                if namespace.title == title:
                    return namespace
            raise

    async def delete_namespace(self, namespace: NamespaceId) -> None:
        """See `Store`. That it is gone after an attempt whose answer was lost is success."""
        deletion = _Unrepeatable(self._store.delete_namespace)
        try:
            await self._call(StoreCall("delete_namespace", deletion, (namespace,)))
        except NamespaceNotFoundError:
            if not deletion.answer_lost:
                raise

    async def _call(self, call: StoreCall[T]) -> T:
        begun = trio.current_time()
        deadline = min(begun + self._deadline, call_ends())
        last: UnavailableError | None = None
        with trio.move_on_at(deadline):
            for attempt in range(1, self._attempts + 1):
                try:
                    return await call()
                except UnavailableError as exc:
                    wait = _wait(exc, attempt)
                    attempts = min(self._attempts, self._attempts_for(exc, call))
                    is_beyond = trio.current_time() + wait >= deadline
                    if is_beyond and self._stays and isinstance(exc, RateLimitedError):
                        await trio.sleep_until(max(deadline - TELLING, trio.current_time()))
                    if attempt >= attempts or is_beyond:
                        raise
                    last = without_frames(exc)
                log.warning(
                    "%s failed (%s), attempt %d of %d; the next in %.1f s",
                    *(call.operation, last, attempt, attempts, wait),
                    extra={"attempt": attempt + 1},
                )
                await trio.sleep(wait)
        because = f"; before that: {last}" if last else ""
        seconds = deadline - begun
        if last is None and seconds <= 0:
            raise OutOfTimeError(f"{call.operation}: the time of the call is over")
        is_short = last is None and seconds < ENOUGH * self._deadline
        kind = OutOfTimeError if is_short else _kind_after(last)
        raise kind(f"{call.operation}: no answer within {seconds:.3g} s{because}") from last

    def _attempts_for(self, error: UnavailableError, call: StoreCall[T]) -> float:
        """Return how often a call that failed so may be made at most."""
        if isinstance(error, BodyTooLargeError | UntrustedError):
            return 1
        is_of_many = call.is_read and len(call.keys) > 1
        if isinstance(error, BlockedError | UnknownRefusalError):
            return 1 if is_of_many else FEW
        if is_of_many and may_be_one_key(error):
            return 1 if isinstance(error, NoAnswerError) else FEW
        return self._silences if call.is_read and isinstance(error, NoAnswerError) else float("inf")


def _kind_after(last: UnavailableError | None) -> type[UnavailableError]:
    """Return the error of a call whose time is up, by that of its last attempt."""
    if last is None or isinstance(last, NoAnswerError):
        return NoAnswerError
    return UnreachableError if isinstance(last, UnreachableError) else UnavailableError


class _Unrepeatable(Generic[A, T]):
    """A method that answers differently the second time; remembers if an attempt may have worked."""

    def __init__(self, method: Callable[[A], Awaitable[T]]) -> None:
        self._method = method
        self.answer_lost = False

    async def __call__(self, argument: A, /) -> T:
        try:
            return await self._method(argument)
        except RateLimitedError:
            raise  # it was turned away unread
        except UnavailableError:
            self.answer_lost = True
            raise


def _wait(error: UnavailableError, attempt: int) -> float:
    bound = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** (attempt - 1))
    return (error.retry_after or 0.0) + bound * random.uniform(0.5, 1.0)
