"""Refusals of the token: doubted at first, then believed, and not repeated at the API for a while.

Cloudflare answers 10000 and 10001 to good tokens now and then, so these are asked again. It also locks an
address out after many refused requests, so once a refusal counts, calls fail at once without a request. Reads and
writes are refused apart: a token may lack the permission to write.
"""

import copy
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar

import trio

from kvfs.core.errors import (
    AccountError,
    DeniedError,
    NamespaceNotFoundError,
    QuotaError,
    RejectedError,
    StoreError,
    TitleExistsError,
    without_frames,
)
from kvfs.store import codes
from kvfs.store.base import Store
from kvfs.store.codes import Meaning
from kvfs.store.wrapper import WRITES, Around, StoreCall

T = TypeVar("T")

DOUBTS: Final = (1.0, 2.0, 4.0)  # seconds before a refusal that may pass is asked again
_SHARE: Final = 0.4  # the part of a caller's time that all doubts together may take
FIRST_REST: Final = 30.0  # seconds without a request once a refusal counts; doubles each time
LONGEST_REST: Final = 300.0

_TITLES: Final = frozenset({"create_namespace", "rename_namespace", "delete_namespace"})

log = logging.getLogger("kvfs.store")


class Renewable(Protocol):
    """The part of credentials that a refusal needs to know."""

    def has_changed(self) -> bool:
        """Look, without waiting, if there is another token by now; it is used from then on."""

    async def renew(self) -> bool:
        """Ask for a new token; true when there is another one, which is used from then on."""


class _Family:
    """Operations that are permitted or refused together. `error` is the refusal that counts, if one does."""

    def __init__(self) -> None:
        self.lock = trio.Lock()  # one asks again, the others wait for the outcome
        self.error: DeniedError | None = None
        self.until = float("-inf")
        self.rest = FIRST_REST
        self.accepted_at = float("-inf")

    def close(self, error: DeniedError) -> None:
        """Note that the refusal counts."""
        self.error = error
        self.until = trio.current_time() + self.rest
        self.rest = min(2 * self.rest, LONGEST_REST)

    def accept(self) -> None:
        """Note that the token was accepted."""
        self.error, self.until, self.rest = None, float("-inf"), FIRST_REST
        self.accepted_at = trio.current_time()


class Refusals:
    """The families of operations that the token is refused for, and until when (monotonic) nobody asks."""

    def __init__(self, token: Renewable, patience: float = float("inf")) -> None:
        """`patience` is the number of seconds for which a caller waits; the refusal is to come before."""
        self._token = token
        shorter = min(1.0, _SHARE * patience / sum(DOUBTS))
        self._doubts = [wait * shorter for wait in DOUBTS]
        self._families = {name: _Family() for name in ("read", "write", "title")}

    def ask_again(self) -> None:
        """Let the next call of each family be a request, because somebody may have mended what was refused."""
        for family in self._families.values():
            family.until = float("-inf")

    @property
    def reason(self) -> str:
        """Return why a family of operations is refused at the moment; "" while none is."""
        now = trio.current_time()
        refused = (family.error for family in self._families.values() if family.until > now)
        return next((str(error) for error in refused if error is not None), "")

    async def call(self, operation: str, request: Callable[[], Awaitable[T]]) -> T:
        """Make a request unless the token is known to be refused. Raises what it raises, and `DeniedError`."""
        family = self._families[
            "write" if operation in WRITES else "title" if operation in _TITLES else "read"
        ]
        if family.error is not None:
            async with family.lock:  # one of all who wait asks, and the others hear of it
                self._check(family)
                return await self._ask(family, request)
        begun = trio.current_time()
        try:
            return await self._ask(family, request)
        except DeniedError as exc:
            if not _is_about_token(exc):
                raise
            refusal = without_frames(exc)
        async with family.lock:
            self._check(family)
            return await self._doubt(family, refusal, begun, request)

    def _check(self, family: _Family) -> None:
        """Raise the refusal that counts while nobody is to ask."""
        left = family.until - trio.current_time()
        if family.error is not None and left > 0 and not self._token.has_changed():
            error = copy.copy(family.error)
            error.args = (f"{error}; the next request is in {left:.0f} s",)
            raise error

    async def _ask(self, family: _Family, request: Callable[[], Awaitable[T]]) -> T:
        """Make one request, and take in what its answer says of the token."""
        try:
            answer = await request()
        except DeniedError as exc:
            if family.error is not None and _is_about_token(exc):
                self._refused(family, exc)
            raise
        except (NamespaceNotFoundError, RejectedError, TitleExistsError):
            self._accepted(family)
            raise
        self._accepted(family)
        return answer

    async def _doubt(
        self, family: _Family, refusal: DeniedError, begun: float, request: Callable[[], Awaitable[T]]
    ) -> T:
        """Ask again before the refusal counts."""
        waits = list(self._doubts) if refusal.code in codes.PASSING else []
        if family.accepted_at > begun or self._token.has_changed() or await self._token.renew():
            waits.insert(0, 0.0)
        for wait in waits:
            if trio.current_time() + wait >= trio.current_effective_deadline():
                break
            log.info("the token was refused (%s), which may pass: asking again in %g s", refusal, wait)
            await trio.sleep(wait)
            try:
                return await self._ask(family, request)
            except DeniedError as exc:
                if not _is_about_token(exc):
                    raise
                refusal = without_frames(exc)
        self._refused(family, refusal)
        raise copy.copy(refusal)

    def _refused(self, family: _Family, error: DeniedError) -> None:
        of_all = error.code not in codes.PASSING and codes.meaning(error.code) is Meaning.TOKEN
        for each in self._families.values() if of_all else (family,):
            each.close(error)

    def _accepted(self, family: _Family) -> None:
        """Note that the token is good for this family; refusals of the token itself end too."""
        family.accept()
        for other in self._families.values():
            if other.error is not None and other.error.code not in codes.PASSING:
                other.accept()


class Doubting(Around):
    """Calls go by `Refusals`, which all views of one account share."""

    def __init__(self, store: Store, refusals: Refusals) -> None:
        super().__init__(store)
        self._refusals = refusals

    async def _call(self, call: StoreCall[T]) -> T:
        return await self._refusals.call(call.operation, call)


def _is_about_token(error: StoreError) -> bool:
    """True for refusals of the credentials; a permission, a quota or a plan is no matter of the token."""
    if isinstance(error, QuotaError | AccountError) or error.code == codes.BAD_ACCOUNT:
        return False
    return error.code != codes.NO_PERMISSION
