"""Retrying: a Store around a Store that repeats what may pass the next time, within a bound.

tenacity counts and waits. Not stamina, which wraps it: that logs and counts in places of its own, set for
the whole process, and leaves no room for the operation's name.
"""

import logging
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Generic, ParamSpec, TypeVar

import tenacity
import trio

from kvfs.core.errors import (
    BodyTooLargeError,
    NamespaceNotFoundError,
    RateLimitedError,
    TitleExistsError,
    UnavailableError,
)
from kvfs.core.model import Namespace, NamespaceId
from kvfs.store.base import Store
from kvfs.store.wrapper import Around

P = ParamSpec("P")
A = TypeVar("A")
T = TypeVar("T")

FIRST_WAIT: Final = 0.25  # seconds at most before the second attempt; doubles with each
LONGEST_WAIT: Final = 20.0  # seconds at most between two attempts, unless the server asks for more

log = logging.getLogger("kvfs.store")


class Retrying(Around):
    """Repeats calls that failed with `UnavailableError`: `attempts` in all, within `deadline` seconds.

    The waits grow exponentially, with jitter; `retry_after` comes on top when the server asked for it. When
    the next attempt would lie beyond the deadline, or none is left, the last error is raised as it is; a call
    that has no answer by the deadline is cancelled and raises `UnavailableError`.
    Never repeated: what the server refuses, and `BodyTooLargeError`, which wants smaller pieces.
    """

    def __init__(self, store: Store, *, attempts: int, deadline: float) -> None:
        super().__init__(store)
        self._attempts = attempts
        self._deadline = deadline

    def __repr__(self) -> str:
        return f"<Retrying attempts={self._attempts} deadline={self._deadline:g} around {self._store!r}>"

    async def create_namespace(self, title: str) -> Namespace:
        """See `Store`. A title that exists after an attempt whose answer was lost is taken for ours."""
        creation = _Unrepeatable(self._store.create_namespace)
        try:
            return await self._call("create_namespace", creation, title)
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
            await self._call("delete_namespace", deletion, namespace)
        except NamespaceNotFoundError:
            if not deletion.answer_lost:
                raise

    async def _call(
        self, operation: str, method: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        deadline = trio.current_time() + self._deadline
        failures: list[BaseException] = []
        with trio.move_on_at(deadline):
            async for attempt in self._attempts_until(deadline, operation, failures):
                with attempt:
                    return await method(*args, **kwargs)
        last = failures[-1] if failures else None
        because = f"; before that: {last}" if last else ""
        raise UnavailableError(f"{operation}: no answer within {self._deadline:g} s{because}") from last

    def _attempts_until(
        self, deadline: float, operation: str, failures: list[BaseException]
    ) -> tenacity.AsyncRetrying:
        def note(state: tenacity.RetryCallState) -> None:
            failures.append(_error(state))
            log.warning(
                "%s failed (%s), attempt %d of %d; the next in %.1f s",
                *(operation, failures[-1], state.attempt_number, self._attempts, state.upcoming_sleep),
            )

        return tenacity.AsyncRetrying(
            sleep=trio.sleep,
            retry=tenacity.retry_if_exception(_may_pass_next_time),
            wait=_wait,
            stop=partial(_must_stop, self._attempts, deadline),
            before_sleep=note,
            reraise=True,
        )


class _Unrepeatable(Generic[A, T]):
    """A method that answers differently the second time; remembers whether an attempt may have worked."""

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


def _may_pass_next_time(error: BaseException) -> bool:
    return isinstance(error, UnavailableError) and not isinstance(error, BodyTooLargeError)


def _wait(state: tenacity.RetryCallState) -> float:
    bound: float = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** (state.attempt_number - 1))
    error = _error(state)
    asked = error.retry_after if isinstance(error, UnavailableError) else None
    return (asked or 0.0) + bound * random.uniform(0.5, 1.0)


def _must_stop(attempts: int, deadline: float, state: tenacity.RetryCallState) -> bool:
    return state.attempt_number >= attempts or trio.current_time() + state.upcoming_sleep >= deadline


def _error(state: tenacity.RetryCallState) -> BaseException:
    error = None if state.outcome is None else state.outcome.exception()
    assert error is not None, "asked about an attempt that did not fail"
    return error
