"""The memory of binary values on this machine between mounts and copies: a file for each account.

STATE/kinds/<hash of the account>.json. It holds names of keys, so it is private; without it, or with a damaged
one, everything works at the price of some requests. Mounts and copies of an account share it: each adds what
it learned to what is there. The last writer of two at one moment wins, which costs the same few requests.
"""

import logging
from itertools import islice
from pathlib import Path
from typing import Final

import trio
from msgspec import Struct

from kvfs.core.errors import UserError
from kvfs.core.kinds import Kept, Kinds
from kvfs.core.model import NamespaceId
from kvfs.host.state import private_directory, read_as, state_name, write_record

MOST_KEYS: Final = 100_000  # keys of an account; the newest stay
MOST_ENDINGS: Final = 1_000  # endings of a namespace
PERIOD: Final = 60.0  # seconds between two looks for news

log = logging.getLogger("kvfs.host")

KnownKinds = dict[NamespaceId, Kept]


class _Written(Struct):
    """The knowledge of one namespace, as the file has it: the newest keys are last."""

    binary: list[str]
    endings: dict[str, tuple[int, int]]


class KindsFile:
    """The knowledge of one account. `identity` is one text for an account, whichever source names it."""

    def __init__(self, state_dir: Path, identity: str) -> None:
        self._path = state_dir / "kinds" / f"{state_name(identity)}.json"

    def read(self) -> KnownKinds:
        """Return all that is known. It never raises: a file that cannot be read counts as no knowledge."""
        found = read_as(dict[NamespaceId, _Written], self._path) or {}
        return {
            namespace: Kept(dict.fromkeys(known.binary, True), known.endings)
            for namespace, known in found.items()
        }

    def add(self, news: KnownKinds) -> None:
        """Add new knowledge. Raises OSError, `UserError`."""
        if not news:
            return
        known = self.read()
        for namespace, learned in news.items():
            kept = known.pop(namespace, Kept())
            for key in learned.binary:
                kept.binary.pop(key, None)  # the newest are last
            kept.binary |= {key: True for key, is_binary in learned.binary.items() if is_binary}
            kept.endings |= learned.endings
            known[namespace] = kept
        private_directory(self._path.parent)
        write_record(_bounded(known), self._path)


def _bounded(known: KnownKinds) -> dict[str, _Written]:
    """Return what is written, within the bounds: of the oldest namespaces the oldest keys go first."""
    surplus = sum(len(kept.binary) for kept in known.values()) - MOST_KEYS
    bounded: dict[str, _Written] = {}
    for namespace, kept in known.items():
        dropped = min(max(0, surplus), len(kept.binary))
        surplus -= dropped
        endings = list(kept.endings.items())[-MOST_ENDINGS:]
        bounded[namespace] = _Written(list(islice(kept.binary, dropped, None)), dict(endings))
    return bounded


def account_identity(base_url: str, account: str) -> str:
    """Return the text that stands for an account in every command and mount."""
    return f"cloudflare:{base_url.rstrip('/')}\n{account}"


async def keep_kinds(kinds: Kinds, file: KindsFile) -> None:
    """Write new knowledge down, once in `PERIOD`, for ever."""
    while True:
        await trio.sleep(PERIOD)
        await save_kinds(kinds, file)


async def save_kinds(kinds: Kinds, file: KindsFile) -> None:
    """Write new knowledge down. A full disk must not end the mount or copy: it is logged."""
    try:
        await trio.to_thread.run_sync(file.add, kinds.take_news())
    except (OSError, UserError) as exc:
        log.warning("which values are binary could not be written down: %s", exc)
