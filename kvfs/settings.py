"""The kinds of settings: how each is read from text, written as text, and shown in help.

`Config` has a field for each setting of a mount. Its kind, help and default are there and nowhere else: options,
variables, `-o`, the configuration file, `kvfs config show`, help and man pages are made of them.
"""

import os
import re
from collections.abc import Callable
from dataclasses import Field, dataclass, field
from pathlib import Path
from typing import Any, Final

from kvfs.core.errors import InvalidError
from kvfs.core.measures import duration_word, parse_duration, parse_size, size_word
from kvfs.history.allowance import parse_bounds

MOUNT_FLAGS: Final = frozenset(("noexec", "nosuid", "nodev", "noatime", "nodiratime"))
"""Words for the kernel, passed on with the mount."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of value. `parse` raises `InvalidError`; `word` writes what `parse` reads back as the same value.

    `words`: the only words that it takes, if there are only some.
    """

    metavar: str
    parse: Callable[[str], Any]
    word: Callable[[Any], str] = str
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Setting:
    """The kind and the help of a field of `Config`."""

    kind: Kind
    help: str


def setting(kind: Kind, text: str, default: Any = None, *, factory: Callable[[], Any] | None = None) -> Any:
    """Return a field of a dataclass for a setting. With `factory`, the text must say what the default is."""
    metadata = {"setting": Setting(kind, text)}
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


def setting_of(one: "Field[Any]") -> Setting | None:
    """Return the setting of a field; None for a field that is no setting."""
    return one.metadata.get("setting")


def choice(*words: str) -> Kind:
    """Return the kind that is one of these words."""
    return Kind("", str, words=words)


def whole(low: int, high: int, metavar: str = "NUMBER") -> Kind:
    """Return the kind of a whole number in a range."""

    def parse(text: str) -> int:
        number = int(text) if re.fullmatch("[0-9]{1,18}", text.strip()) else -1
        if not low <= number <= high:
            raise InvalidError(f"{text[:40]!r} is not a whole number from {low} to {high}")
        return number

    return Kind(metavar, parse)


def _some_duration(text: str) -> float:
    if (seconds := parse_duration(text)) == 0:
        raise InvalidError("it must be more than 0 seconds")
    return seconds


def _mask(text: str) -> int:
    if not re.fullmatch("[0-7]{1,4}", text) or int(text, 8) > 0o777:
        raise InvalidError(f"{text!r} is not an octal mask like 022")
    return int(text, 8)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _flags(text: str) -> tuple[str, ...]:
    for word in text.split():
        if word not in MOUNT_FLAGS:
            raise InvalidError(f"{word!r} is none of {', '.join(sorted(MOUNT_FLAGS))}")
    return _words(text)


def _separator(text: str) -> str:
    if len(text) > 1 or text == "\0":
        raise InvalidError(f"a separator is one character or none, not {text!r}")
    return text


def _path(text: str) -> Path:
    """Return an absolute path, because the daemon has another working directory."""
    return Path(os.path.abspath(os.path.expanduser(text)))  # Path.expanduser raises for an unknown user


FLAG: Final = Kind("", bool)
DURATION: Final = Kind("DURATION", parse_duration, duration_word)
SOME_DURATION: Final = Kind("DURATION", _some_duration, duration_word)
"""More than nothing."""

SIZE: Final = Kind("SIZE", parse_size, size_word)
BOUNDS: Final = Kind("AGE,SIZE", parse_bounds)
MASK: Final = Kind("OCTAL", _mask, "{:03o}".format)
SEPARATOR: Final = Kind("CHARACTER", _separator)
PATTERNS: Final = Kind("PATTERNS", _words, " ".join)
FLAGS: Final = Kind("WORDS", _flags, " ".join)
PATH: Final = Kind("PATH", _path, os.fspath)
ID: Final = whole(0, 2**32 - 2, "ID")
COUNT: Final = whole(1, 10**9)
LEVEL: Final = choice("info", "debug", "warning", "error")
