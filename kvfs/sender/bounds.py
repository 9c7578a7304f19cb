"""The bounds of a bulk body: remembered from success, doubled after quick answers, halved after slow ones."""

from dataclasses import dataclass, field

from kvfs.core.bulksize import BulkSize
from kvfs.core.packing import Batch, pair_bytes
from kvfs.sender.events import SenderOptions


@dataclass
class Limits:
    """The sizes that the server copes with, in pairs and in bytes."""

    options: SenderOptions
    _size: BulkSize = field(init=False)

    def __post_init__(self) -> None:
        options = self.options
        self._size = BulkSize(options.first_pairs, pairs=options.pairs, body_bytes=options.body_bytes)

    @property
    def pairs(self) -> int:
        """Return the most changes in a body."""
        return self._size.pairs

    @property
    def body_bytes(self) -> int:
        """Return the most bytes of a body."""
        return self._size.body_bytes

    @property
    def round_pairs(self) -> int:
        """Return the most changes in a round: several bodies while answers are quick; checks are for a round."""
        return self.options.pairs if self._size.is_quick else self.pairs

    @property
    def round_bytes(self) -> int:
        """Return the most bytes of a round's values."""
        return self.options.body_bytes if self._size.is_quick else self.body_bytes

    def shrink(self, batch: Batch) -> None:
        """Note that this body was too much."""
        self._size.shrink(len(batch.changes), body_size(batch))

    def note(self, batch: Batch, seconds: float) -> None:
        """Note that this body was taken, and how long the answer took."""
        self._size.note(len(batch.changes), body_size(batch), seconds)


def body_size(batch: Batch) -> int:
    """Return at most how many bytes its body has."""
    return sum(map(pair_bytes, batch.changes))
