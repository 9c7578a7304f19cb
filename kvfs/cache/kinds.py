"""Text or binary? What was learned of names: a bulk get takes text only, one binary fails it whole."""

from collections.abc import Sequence
from typing import TypeVar

from kvfs.cache.values import Place
from kvfs.core.model import Key, NamespaceId
from kvfs.store.bulkread import halves

_SINGLY = 0.25  # a key at least this likely to be binary is asked for alone
_RISK = 1.0  # binaries that a batch may be expected to hold
_FORGET = 10_000  # values of a kind after which older ones count half
_ENDINGS = 10_000  # endings remembered
_BINARIES = 100_000  # single keys remembered as binary
_ENDING = 8  # characters of an ending; what is longer, or a number, says nothing
# Endings taken for binary until a value says otherwise.
# fmt: off
_BINARY = frozenset([
    "7z", "a", "avi", "avif", "bin", "bmp", "bz2", "class", "db", "dll", "docx", "dylib", "eot", "exe",
    "flac", "gif", "gz", "heic", "ico", "iso", "jar", "jpeg", "jpg", "lz4", "lzma", "m4a", "m4v", "mkv",
    "mov", "mp3", "mp4", "npy", "npz", "o", "odt", "ogg", "otf", "parquet", "pdf", "png", "pptx", "pyc",
    "rar", "so", "sqlite", "sqlite3", "tar", "tgz", "tif", "tiff", "ttf", "wasm", "wav", "webm", "webp",
    "woff", "woff2", "xlsx", "xz", "zip", "zst",
])
# fmt: on
_GROUPS = 8  # more endings than this in a refused batch: halves tell more

Kind = tuple[NamespaceId, str]
T = TypeVar("T")
U = TypeVar("U")


class Kinds:
    """Counts of text and binary values by the ending of the name (or the directory, where there is none)."""

    def __init__(self) -> None:
        self._seen: dict[Kind, tuple[int, int]] = {}  # texts and binaries
        self._binaries: dict[Place, None] = {}

    def learn(self, place: Place, *, is_text: bool) -> None:
        """A value arrived."""
        kind = kind_of(place)
        texts, binaries = self._seen.get(kind, (0, 0))
        if is_text:
            texts += 1
            if self._binaries:
                self._binaries.pop(place, None)
        elif place not in self._binaries:
            binaries += 1
            self._binaries[place] = None
        if texts + binaries > _FORGET:
            texts, binaries = texts // 2, (binaries + 1) // 2
        self._seen[kind] = (texts, binaries)
        _bound(self._seen, _ENDINGS)
        _bound(self._binaries, _BINARIES)

    def risk(self, place: Place) -> float:
        """How likely the value is binary, 0 to 1; 0 for what nothing is known of."""
        if place in self._binaries:
            return 1.0
        kind = kind_of(place)
        seen = self._seen.get(kind)
        if seen is None:
            return 1.0 if _is_known_binary(kind) else 0.0
        return seen[1] / sum(seen)

    def is_guessed(self, place: Place) -> bool:
        """Whether its well-known ending is all that is known of it."""
        kind = kind_of(place)
        return kind not in self._seen and _is_known_binary(kind)

    def is_single(self, place: Place) -> bool:
        """Whether the value is better asked for alone."""
        return self.risk(place) >= _SINGLY

    def fits(self, risk: float) -> bool:
        """Whether a batch may carry so much risk in all."""
        return risk <= _RISK

    def divide(self, namespace: NamespaceId, keys: Sequence[Key]) -> list[list[Key]]:
        """Smaller batches for one that a binary value failed: by endings, or halves.

        Of an ending never seen one key goes first and alone: when it is binary, so are the rest, mostly.
        """
        groups: dict[Kind, list[Key]] = {}
        for key in keys:
            groups.setdefault(kind_of((namespace, key)), []).append(key)
        if 1 < len(groups) <= _GROUPS:
            return list(groups.values())
        if len(groups) == 1 and next(iter(groups)) not in self._seen:
            return [[keys[0]], *halves(keys[1:])]
        return halves(keys)


def kind_of(place: Place) -> Kind:
    """What tells binaries from text by name: the ending of the last component, or its directory."""
    namespace, key = place
    directory, slash, name = key.rpartition("/")
    stem, _, ending = name.rpartition(".")
    if stem and 0 < len(ending) <= _ENDING and not ending.isdigit():
        return namespace, f".{ending}"
    return namespace, directory + slash


def _is_known_binary(kind: Kind) -> bool:
    return kind[1].startswith(".") and kind[1][1:].lower() in _BINARY


def _bound(remembered: dict[tuple[NamespaceId, T], U], most: int) -> None:
    if len(remembered) > most:
        del remembered[next(iter(remembered))]  # the first that came
