"""Common parts of all handlers: the store of a request, the form of an answer, the count of keys."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from prometheus_client import Counter
from starlette.requests import Request
from starlette.responses import Response

from kvfs.server.error_answers import JSON
from kvfs.server.parameters import account_of
from kvfs.store.base import Store

StoreOf = Callable[[str], Store]
"""Returns the store of an account by its id."""

TALLY: Final = "kvfs.tally"
"""Where the scope of a request holds its `Tally`."""


@dataclass(slots=True)
class Tally:
    """The facts that metrics learn of a request while it is answered. A `direct` one is left out."""

    operation: str
    keys: Counter
    direct: bool = False

    def count(self, keys: int) -> None:
        """Count keys that were touched, whatever becomes of the answer, because they are billed."""
        if keys and not self.direct:
            self.keys.labels(self.operation).inc(keys)


class Calls:
    """Base of the handlers: `store_of` an account, `now` in epoch seconds."""

    def __init__(self, store_of: StoreOf, now: Callable[[], float]) -> None:
        self._store_of = store_of
        self.now = now

    def store(self, request: Request) -> Store:
        """Return the store of the account that the path names."""
        return self._store_of(account_of(request))

    def count(self, request: Request, keys: int) -> None:
        """Count keys that were read, written or deleted; a listing counts as one, as it is billed."""
        request.scope[TALLY].count(keys)


def json_answer(body: bytes) -> Response:
    """Return 200 with a JSON body."""
    return Response(body, media_type=JSON)
