"""The price of a move, before it begins: requests, minutes under the API's limit, dollars at list price."""

from dataclasses import dataclass
from math import ceil
from typing import Final

from kvfs.core.bulksize import FIRST_PAIRS
from kvfs.core.limits import BULK_GET_KEYS, BULK_PAIRS, RATE_REQUESTS, RATE_SECONDS
from kvfs.core.prices import dollars

ASK_KEYS: Final = 10_000  # more keys written than these are asked about
ASK_DOLLARS: Final = 0.05
SECONDS_A_REQUEST: Final = 0.25  # the time of a bulk request, several at a time, without the wait for a limit


@dataclass(frozen=True, slots=True)
class Plan:
    """The amount of work. Counts are of keys; `lists` are the requests already made for this plan."""

    keys: int
    known_bytes: int = 0
    unsized: int = 0
    deletes: int = 0
    lists: int = 0
    singles: int = 0
    reads_billed: bool = False
    writes_billed: bool = False

    @property
    def requests(self) -> tuple[int, int]:
        """Return the fewest and the most requests: bulk writes grow from 1,000 keys to 10,000 as the server copes."""
        singles = min(self.singles, self.keys)
        reads = (ceil((self.keys - singles) / BULK_GET_KEYS) + singles) if self.reads_billed else 0
        if not self.writes_billed:
            return reads, reads
        least, most = (
            ceil(self.keys / pairs) + ceil(self.deletes / pairs) for pairs in (BULK_PAIRS, FIRST_PAIRS)
        )
        return reads + least, reads + most

    @property
    def minutes(self) -> float:
        """Return the least time under the API's limit; the requests of the first window need not wait."""
        most = self.requests[1]
        windows = max(0, ceil((most + self.lists) / RATE_REQUESTS) - 1)
        return max(windows * RATE_SECONDS, most * SECONDS_A_REQUEST) / 60

    @property
    def dollars(self) -> float:
        """Return the price of the keys and of the lists that made this plan."""
        billed = {"lists": self.lists, "read": self.keys if self.reads_billed else 0}
        if self.writes_billed:
            billed |= {"written": self.keys, "deleted": self.deletes}
        return dollars(billed)

    @property
    def must_ask(self) -> bool:
        """Return True if the user has to agree first, where keys of a store are written."""
        return self.keys + self.deletes > ASK_KEYS or self.must_ask_to_read

    @property
    def must_ask_to_read(self) -> bool:
        """Return True if the user has to agree first, where keys are written to files."""
        return self.dollars > ASK_DOLLARS
