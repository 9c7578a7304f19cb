"""docs/durability.md: each sentence has its test, and each test that it names is there."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "durability.md"
MARK = r"\[✓\]\[([\w-]+)\]"
DEFINITION = re.compile(r'^\[([\w-]+)\]: (\S+) "(\w+)"$', re.MULTILINE)
SENTENCE_END = re.compile(r"[.!?][*_`)”]*(?=\s|$|\[)")
PLAIN = frozenset(
    {
        "Workers KV has no conditional write.",  # the sentence after it says what follows, and shows it
        "KV is eventually consistent.",
        "Depends on the damage.",
    }
)


def prose() -> str:
    """Return the page without its heads, its comments and its definitions."""
    text = re.sub(r"<!--.*?-->", "", PAGE.read_text(), flags=re.DOTALL)
    return re.sub(r"^#.*$", "", DEFINITION.sub("", text), flags=re.MULTILINE)


def units(text: str) -> Iterator[str]:
    """Return paragraphs, bullets and the cells of tables but the first, which only names their subject."""
    for block in re.split(r"\n\s*\n", text):
        if block.startswith("|"):
            for row in block.splitlines()[2:]:
                yield from (cell.strip() for cell in row.strip("|").split("|")[1:])
        else:
            yield from (
                re.sub(r"\s+", " ", item).strip() for item in re.split(r"^- ", block, flags=re.MULTILINE)
            )


def unproved(unit: str) -> list[str]:
    """Return the sentences of a unit that no ✓ follows; one without a full stop counts as a whole."""
    unit = unit.replace("`.", "`. ").replace("…", "")
    if not unit or unit.endswith(":") or unit in PLAIN:
        return []
    missing, begin = [], 0
    for end in SENTENCE_END.finditer(unit):
        sentence = re.sub(MARK, "", unit[begin : end.end()]).strip()
        if not re.match(r"\s*" + MARK, unit[end.end() :]) and sentence not in PLAIN:
            missing.append(sentence)
        begin = end.end()
    rest = re.sub(MARK, "", unit[begin:]).strip()
    if rest and not re.search(MARK + r"$", unit):
        missing.append(rest)
    return missing


def defined_in(path: Path) -> set[str]:
    """Return the names of the tests that a file defines, by its syntax."""
    found = ast.walk(ast.parse(path.read_text()))
    functions = (node for node in found if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {node.name for node in functions if node.name.startswith("test_")}


def test_every_sentence_has_its_test() -> None:
    """A promise that nothing shows does not stand on the page."""
    missing = [sentence for unit in units(prose()) for sentence in unproved(unit)]
    assert not missing


@pytest.mark.parametrize(
    ("label", "path", "name"), DEFINITION.findall(PAGE.read_text()), ids=lambda part: part[:40]
)
def test_every_test_that_is_named_is_there(label: str, path: str, name: str) -> None:
    """Every test that is named is in the file that the link leads to."""
    assert name in defined_in((PAGE.parent / path).resolve())


def test_every_mark_leads_somewhere_and_every_place_is_used() -> None:
    """No label is without a definition, none is defined twice, and none is unused."""
    labels = [label for label, _, _ in DEFINITION.findall(PAGE.read_text())]
    assert len(labels) == len(set(labels))
    assert set(re.findall(MARK, prose())) == set(labels)


def test_the_check_sees_what_is_missing() -> None:
    """The check notices a missing test, or the test above would accept anything."""
    assert unproved("It is kept.[✓][a] It is sent.") == ["It is sent."]
    assert unproved("It is kept. It is sent.[✓][a]") == ["It is kept."]
    assert unproved("nothing") == ["nothing"]
    assert unproved("It is kept,[✓][a] and sent.[✓][b]") == []
    assert unproved("nothing[✓][a]") == []
