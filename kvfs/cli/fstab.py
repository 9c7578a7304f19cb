"""Options as mount(8) and fstab(5) write them, `a,b=c`, made into words of `kvfs mount`. No environment is read."""

import difflib
import re
import shlex
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from kvfs.core.errors import UserError
from kvfs.settings import MOUNT_FLAGS

IGNORED: Final = frozenset(
    (
        *("defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group", "_netdev", "nofail"),
        *("rw", "async", "exec", "suid", "dev", "atime", "relatime", "strictatime", "diratime"),
        *("loud", "silent"),
    )
)
"""Words for mount(8) and systemd, and defaults of the kernel."""

_SIZE: Final = re.compile(r"\d+(\.\d+)?\s*([KMGT]?i?B?|[smhdw]|min)", re.IGNORECASE)
"""An age or a size, as the second half of a value of `history`."""

_SECRET: Final = ("TOKEN", "API_KEY", "PASSWORD", "SECRET")


@dataclass(frozen=True, slots=True)
class Expanded:
    """The result: words for the command line, and variables for its environment."""

    words: list[str] = field(default_factory=list)
    environ: dict[str, str] = field(default_factory=dict)


def expanded(text: str, options: Mapping[str, bool], *, sloppy: bool = False) -> Expanded:
    """Return the options in `text`.

    `options` are the long options of the command without dashes, and True for those that take no value. A value that
    holds a comma is written in double quotes, but for that of `history`; `_` and `-` are one in names. `sloppy` drops
    what is unknown, as mount's -s asks for. Raises `UserError`, which names the option.
    """
    result = Expanded()
    flags = []
    for item in _joined(_items(text)):
        name, equals, value = item.partition("=")
        if name in IGNORED or name.startswith(("x-", "X-", "comment")):
            continue
        if name in MOUNT_FLAGS:
            flags.append(name)
        elif name.startswith("env."):
            result.environ.update(_variable(name.removeprefix("env."), value))
        else:
            word = _word(name, value if equals else None, options, sloppy=sloppy)
            result.words.extend([word] if word else [])
    if flags:
        result.words.append("--mount-flags=" + " ".join(flags))
    return result


def _word(name: str, value: str | None, options: Mapping[str, bool], *, sloppy: bool) -> str:
    option = "read-only" if name == "ro" else name.replace("_", "-")
    if option not in options:
        if sloppy:
            return ""
        raise UserError(
            f"-o {name}: no such option{_nearest(option, options)} (kvfs mount --help lists them)"
        )
    if not options[option]:
        if value is None:
            raise UserError(f"-o {name}: it needs a value: {name}=…")
        return f"--{option}={value}"
    if value in (None, "true", "yes", "1"):
        return f"--{option}"
    if value in ("false", "no", "0"):
        return ""
    raise UserError(f"-o {name}: it takes no value, not {value!r}")


def _nearest(name: str, options: Collection[str]) -> str:
    found = difflib.get_close_matches(name, list(options), 1)
    return f"; did you mean {found[0]}?" if found else ""


def _variable(name: str, value: str) -> dict[str, str]:
    if any(word in name.upper() for word in _SECRET):
        raise UserError(
            f"-o env.{name}: a secret is never an option: use token_file=PATH, or token_command=COMMAND"
        )
    return {name: value}


def _joined(items: Iterator[str]) -> Iterator[str]:
    """Give `history=1d,200M` its size back: no option has such a name."""
    held = ""
    for item in items:
        if held and _SIZE.fullmatch(item):
            held += f",{item}"
            continue
        if held:
            yield held
            held = ""
        if item.partition("=")[0] == "history":
            held = item
        else:
            yield item
    if held:
        yield held


def _items(text: str) -> Iterator[str]:
    """Yield the parts between commas; a comma in double quotes parts nothing, and the quotes are removed."""
    items = shlex.shlex(text, posix=True)
    items.whitespace, items.quotes, items.escape, items.commenters = ",", '"', "", ""
    items.whitespace_split = True
    try:
        yield from filter(None, items)
    except ValueError:
        raise UserError(f"-o {text}: a double quote is not closed") from None
