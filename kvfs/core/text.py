"""Text for line-oriented output: one line each, whatever it holds."""

import re
from typing import Final

_BREAKS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_BREAKS_OR_ESCAPE: Final = re.compile(r"[\x00-\x1f\\\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def _escaped(found: re.Match[str]) -> str:
    return "\\\\" if found[0] == "\\" else found[0].encode("unicode_escape").decode("ascii")


def one_line(text: str) -> str:
    """`text` with control characters, line separators and lone surrogates escaped: `\\n`, `\\x1b`, `\\u2028`."""
    return _BREAKS.sub(_escaped, text)


def field(text: str) -> str:
    """`one_line` that can be read back: a backslash is `\\\\`. For fields that tabs separate."""
    return _BREAKS_OR_ESCAPE.sub(_escaped, text)
