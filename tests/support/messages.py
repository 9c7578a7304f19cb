"""Every message that the code can show a user, read from its source, and the entries of the page that explain them.

A message is the text of an error that kvfs raises, of a complaint on stderr, or of a warning in the log; `…` stands
for what is filled in. An entry is a piece of code in the first column of docs/troubleshooting.md; its `…` is anything.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ERRORS = re.compile(r"(Error_?|UsageError|BadParameter|ClickException)$")
COMPLAINTS = {"complain"}
LOGGED = {"warning", "error", "exception"}
INTERNAL = {
    "ValueError",
    "KeyError",
    "OSError",
    "ApiError",
    "RuntimeError",
    "FUSEError",
    "TypeError",
    "AssertionError",
}
"""These never reach a user as they are: they are caught, or a bug."""
_FILLED = re.compile(r"%(?:\.\d+)?[a-z]|\{[^}]*\}")
_MOST = 24
_LETTERS = 6
"""Fewer of its own and a message is made of others, which are collected where they are written."""


@dataclass(frozen=True)
class Message:
    """A message: the place where it is written, its kind, and its text."""

    place: str
    kind: str
    text: str


def messages(root: Path) -> list[Message]:
    """Return all messages of a package, in the order of its files."""
    return [message for file in sorted(root.rglob("*.py")) for message in _of_file(file, root)]


def _of_file(file: Path, root: Path) -> Iterator[Message]:
    tree = ast.parse(file.read_text())
    texts = _Texts(tree)
    for node in ast.walk(tree):
        kind = _kind(node)
        if kind is None or not isinstance(node, ast.Call):
            continue
        for argument in node.args[:2]:
            found = [text for text in texts.of(argument) if len(re.sub(r"[^A-Za-z]", "", text)) >= _LETTERS]
            yield from (Message(f"{file.relative_to(root)}:{node.lineno}", kind, text) for text in found)
            if found:
                break


def _kind(node: ast.AST) -> str | None:
    """Return the name of the called function, if its words reach a user."""
    if not isinstance(node, ast.Call):
        return None
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name in INTERNAL:
        return None
    is_logged = (
        name in LOGGED
        and isinstance(node.func, ast.Attribute)
        and "log" in ast.unparse(node.func.value).lower()
    )
    is_said = name in COMPLAINTS or (name == "echo" and any(word.arg == "err" for word in node.keywords))
    return name if ERRORS.search(name) or is_logged or is_said else None


class _Texts:
    """The texts that an expression may give: literals, and names and functions of the same file that stand for them."""

    def __init__(self, tree: ast.Module) -> None:
        self._values: dict[str, list[ast.expr]] = {}
        for node in ast.walk(tree):
            match node:
                case (
                    ast.Assign(targets=[ast.Name(id=name)], value=value)
                    | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
                ):
                    self._values.setdefault(name, []).append(value)
                case ast.FunctionDef(name=name):
                    returned = [
                        each.value for each in ast.walk(node) if isinstance(each, ast.Return) and each.value
                    ]
                    self._values.setdefault(f"{name}()", []).extend(returned)

    def of(self, node: ast.expr | None, depth: int = 0) -> list[str]:
        """Return each text; an empty list where the file does not tell."""
        if depth > 3:
            return []
        match node:
            case ast.Constant(value=str() as text):
                return [_FILLED.sub("…", text)]
            case ast.JoinedStr(values=parts):
                return self._joined(parts, depth)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                lefts, rights = self.of(left, depth) or ["…"], self.of(right, depth) or ["…"]
                return [one + other for one in lefts for other in rights]
            case ast.BinOp(left=left, op=ast.Mod()):
                return self.of(left, depth)
            case ast.IfExp(body=body, orelse=other):
                return self.of(body, depth) + self.of(other, depth)
            case ast.Name(id=name):
                return self._named(name, depth)
            case ast.Call(func=ast.Name(id=name)):
                return self._named(f"{name}()", depth)
            case ast.Call(func=ast.Attribute(attr=name, value=value)):
                if name == "format":
                    return self.of(value, depth)
                return self._named(f"{name}()", depth)
        return []

    def _named(self, name: str, depth: int) -> list[str]:
        return [text for value in self._values.get(name, []) for text in self.of(value, depth + 1)]

    def _joined(self, parts: list[ast.expr], depth: int) -> list[str]:
        """Return the texts of an f-string.

        A name or a call of the same file is filled in if it has a few texts, else it is `…`.
        """
        texts = [""]
        for part in parts:
            choices = [str(part.value)] if isinstance(part, ast.Constant) else ["…"]
            if isinstance(part, ast.FormattedValue) and isinstance(
                part.value, ast.Name | ast.Call | ast.IfExp
            ):
                choices = self.of(part.value, depth + 1) or choices
            if len(texts) * len(choices) > _MOST:
                choices = ["…"]
            texts = [text + choice for text in texts for choice in choices]
        return texts


@dataclass(frozen=True)
class Entry:
    """A piece of code in the first column of a table."""

    line: int
    text: str

    def fits(self, text: str) -> bool:
        """Return True if the message has the entry's pieces in order, with the first one where a clause begins."""
        first, *others = [re.escape(piece.strip()) for piece in self.text.split("…")]
        begins = rf"(?:^|[:;(,“'] ?|… ?){first}" if first else ""
        return re.search(".*".join([begins, *others]), text, re.DOTALL) is not None


@cache
def entries(page: Path) -> tuple[Entry, ...]:
    """Return the entries of all tables of a page."""
    found = []
    for number, line in enumerate(page.read_text().splitlines(), start=1):
        if line.startswith("| ") and not line.startswith("| you see"):
            cell = re.split(r"(?<!\\)\|", line)[1]
            codes = re.findall(r"``\s?(.+?)\s?``|`([^`]+)`", cell)
            found += [Entry(number, (one or other).replace("\\|", "|")) for one, other in codes]
    return tuple(found)
