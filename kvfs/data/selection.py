"""The choice of entries to move, and their new keys: prefix, patterns, metadata, a renamed prefix."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import translate
from typing import Any, Final

from kvfs.core.errors import UserError
from kvfs.core.model import Key, Metadata

_CONDITION: Final = re.compile(r"([^=!<>~]+?)\s*(?:(!=|>=|<=|=|>|<|~)\s*(.*))?", re.DOTALL)
_MISSING: Final = object()


@dataclass(frozen=True, slots=True)
class Condition:
    """`field`, `field=value`, `!=`, `<`, `<=`, `>`, `>=`, `~pattern` on metadata; `a.b` goes into objects."""

    path: tuple[str, ...]
    operator: str
    value: str

    def holds(self, metadata: object) -> bool:
        """Return whether metadata (decoded) meets the condition."""
        found = metadata
        for name in self.path:
            found = found.get(name, _MISSING) if isinstance(found, dict) else _MISSING
        if found is _MISSING:
            return self.operator == "!="
        match self.operator:
            case "":
                return True
            case "=":
                return _equal(found, self.value)
            case "!=":
                return not _equal(found, self.value)
            case "~":
                return re.match(translate(self.value), _shown(found)) is not None
        return _ordered(found, self.operator, self.value)


def parse_condition(text: str) -> Condition:
    """Parse a condition of the command line. Raises `UserError`."""
    found = _CONDITION.fullmatch(text.strip())
    if found is None:
        raise UserError(
            f"{text!r} is no condition: write field, field=value, field!=value, field>5, field~'a*'"
        )
    return Condition(tuple(found[1].strip().split(".")), found[2] or "", found[3] or "")


def _equal(found: object, text: str) -> bool:
    return _shown(found) == text or (found == _parsed(text) and type(found) is type(_parsed(text)))


def _shown(found: object) -> str:
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False, separators=(",", ":"))


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _ordered(found: object, operator: str, text: str) -> bool:
    """Compare numbers by size, all else as text; a number is never compared with a text."""
    value = _parsed(text)
    if isinstance(found, bool) or isinstance(value, bool):
        return False
    if isinstance(found, int | float) and isinstance(value, int | float):
        order = (found > value) - (found < value)
    elif isinstance(found, str):
        order = (found > text) - (found < text)
    else:
        return False
    return {">": order > 0, "<": order < 0, ">=": order >= 0, "<=": order <= 0}[operator]


@dataclass(frozen=True, slots=True)
class Selection:
    """The entries to move. `strip` is the beginning that every key loses, `add` is the one it gets instead.

    `prefix`, `match` and `where` look at the key as it is after `strip`, before `rename`.
    """

    prefix: str = ""
    match: tuple[str, ...] = ()
    where: tuple[Condition, ...] = ()
    rename: tuple[str, str] | None = None
    strip: str = ""
    add: str = ""
    _matches: Callable[[str], object] | None = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        if self.match:
            either = re.compile("|".join(translate(pattern) for pattern in self.match))
            object.__setattr__(self, "_matches", either.match)

    @property
    def listed(self) -> str:
        """Return the prefix to list: every key that can be chosen begins with it."""
        return self.strip + self.prefix

    def chosen(self, key: str, metadata: Metadata | None) -> bool:
        """Return whether an entry moves."""
        if not key.startswith(self.listed):
            return False
        inner = key[len(self.strip) :]
        if self._matches is not None and self._matches(inner) is None:
            return False
        return not self.where or self._holds(metadata)

    def _holds(self, metadata: Metadata | None) -> bool:
        try:
            found = json.loads(metadata or b"null")
        except (ValueError, RecursionError):
            found = None
        return all(condition.holds(found) for condition in self.where)

    def moved(self, key: str) -> Key:
        """Return the key that an entry gets."""
        inner = key[len(self.strip) :]
        if self.rename is not None and inner.startswith(self.rename[0]):
            inner = self.rename[1] + inner[len(self.rename[0]) :]
        return Key(self.add + inner)

    @property
    def moved_prefix(self) -> str | None:
        """Return the prefix of every moved key; None when they have no common one."""
        if self.rename is None:
            return self.add + self.prefix
        if self.prefix.startswith(self.rename[0]):
            return self.moved(self.strip + self.prefix)
        return None


def parse_rename(text: str) -> tuple[str, str]:
    """Parse `A=B`. Raises `UserError`."""
    before, equals, after = text.partition("=")
    if not equals:
        raise UserError(f"{text!r} is no renaming: write --rename-prefix OLD=NEW")
    return before, after


def parse_conditions(texts: Sequence[str]) -> tuple[Condition, ...]:
    """Parse all conditions of a command line."""
    return tuple(parse_condition(text) for text in texts)
