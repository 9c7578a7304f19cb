"""A request of many keys that keeps failing: one of its keys may be the reason, or the service is away.

The first failures prove nothing, and all of it is tried again. When the same keys fail a third time, or have no
answer, which takes long, they are asked for in halves, until the culprit stands alone or the failures of different
keys show that it is the service. Then halves are tried again only with every 16th try, because each costs a request.
"""

from collections.abc import Collection, Iterable
from typing import Final

from kvfs.core.errors import KvfsError, NoAnswerError, StoreError
from kvfs.core.latest import Latest
from kvfs.core.model import KeyRef
from kvfs.store.bulkread import Suspects, may_be_one_key

FIRST_TRY: Final = 3  # the try without any answer before it with which halves are tried
EVERY: Final = 16  # and later with each 16th
FIRST_PROOF: Final = 4  # failures in a row, of different keys, that show the service to be away
LATER_PROOF: Final = 8  # several culprits take more halves than one
REMEMBERED: Final = 20_000  # keys of requests that failed, the latest
CULPRITS: Final = 1_000  # keys that failed alone while others were answered, the latest


class Doubts:
    """Remembers which keys were in requests that failed, and which failed alone."""

    def __init__(self) -> None:
        self._failed = Latest[KeyRef, None](REMEMBERED)
        self._culprits = Latest[KeyRef, None](CULPRITS)
        self._suspects = Suspects(FIRST_PROOF)
        self._tries = 0  # in a row without any answer

    def begin(self) -> None:
        """Note that another try begins: a round, or its check."""
        self._tries += 1
        self._suspects = Suspects(FIRST_PROOF if self._tries <= FIRST_TRY else LATER_PROOF)

    def answered(self, places: Iterable[KeyRef]) -> None:
        """Note that a request for these was answered."""
        self._suspects.answered()
        self._tries = 0
        if self._failed or self._culprits:
            for place in places:
                self._failed.pop(place, None)
                self._culprits.pop(place, None)

    def failed(self, places: Collection[KeyRef], error: KvfsError) -> bool:
        """Note that a request for these failed.

        Return True when each of its halves, or its only key, is to be judged by itself.
        """
        if not isinstance(error, StoreError) or not may_be_one_key(error):
            return False
        if all(map(self.is_culprit, places)):
            return True
        failed_before = self._failed.keys() >= set(places)
        is_service = self._suspects.failed(frozenset(places))
        for place in places:
            self._failed.keep(place, None)
        if isinstance(error, NoAnswerError):
            return not is_service
        is_time = (
            self._tries in (0, FIRST_TRY) or self._tries % EVERY == 0
        )  # 0: something was answered in this try
        return failed_before and not is_service and is_time

    def blame(self, place: KeyRef) -> None:
        """Note that the key failed alone while others were answered."""
        self._culprits.keep(place, None)

    def is_culprit(self, place: KeyRef) -> bool:
        """Return True for a key that is better asked for, or sent, alone."""
        return place in self._culprits
