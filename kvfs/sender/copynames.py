"""Names of conflict copies: the key under which another client's value is kept beside ours."""

import re
import time
from collections.abc import Callable
from typing import Final

from kvfs.core.limits import KEY_BYTES
from kvfs.core.model import Key

_COPY: Final = re.compile(r"(?s)(.+)\.kvfs-conflict-[\w.-]+-\d{8}T\d{6}Z(?:-\d+)?")


def copy_key(key: Key, host: str, now: float, taken: Callable[[Key], bool]) -> Key:
    """Return `NAME.kvfs-conflict-HOST-TIME`, within the limit of a key; a number follows when that is taken."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    host = "".join(char if char.isalnum() or char in "-_." else "-" for char in host)[:64]
    number = 1
    while True:
        suffix = f".kvfs-conflict-{host}-{stamp}" + (f"-{number}" if number > 1 else "")
        room = KEY_BYTES - len(suffix.encode())
        copy = Key(key.encode()[:room].decode(errors="ignore") + suffix)
        if not taken(copy):
            return copy
        number += 1


def original_of(copy: Key) -> Key | None:
    """Return the key that a copy was made of, by the copy's name; None for other names, and where the name was cut."""
    found = _COPY.fullmatch(copy)
    if found is None or len(copy.encode()) > KEY_BYTES - 4:
        return None
    return Key(found[1])
