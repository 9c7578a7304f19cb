"""Namespace titles as directory names at the root."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvfs.core.errors import FileError, InvalidError, NameNotTextError, NameTooLongError
from kvfs.core.model import Namespace, NamespaceId
from kvfs.core.names import title_names, title_of

IDS = [NamespaceId(char * 32) for char in "0123456789abcdef"]
ODD_TITLES = ["", ".", "..", "%", "%2E", ".kvfs", "%2Ekvfs", "a/b", "x%+", "%self", "t" * 255, "t" * 256]
TITLES = st.sampled_from([*ODD_TITLES, *IDS]) | st.text(st.characters(exclude_categories=["Cs"]), max_size=9)


def shown(*titles: str) -> list[str]:
    """The names of namespaces with these titles, whose ids are 000…, 111… and so on."""
    spaces = [Namespace(ident, title) for ident, title in zip(IDS, titles, strict=False)]
    names = {space.id: name for name, space in title_names(spaces).items()}
    return [names[space.id] for space in spaces]


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("plain", "plain"),
        ("my space: ünï", "my space: ünï"),
        ("a/b", "a%2Fb"),
        (".kvfs", "%2Ekvfs"),
        ("%2Ekvfs", "%252Ekvfs"),
        (".kvfs2", ".kvfs2"),
        ("..", "%2E%2E"),
        ("%self", "%25self"),
        ("x%+", "x%25+"),
        ("t" * 255, "t" * 255),
        ("/" * 85, "%2F" * 85),
    ],
)
def test_a_title_is_its_name(title: str, name: str) -> None:
    """Only what must be escaped is escaped, and a directory of that name gets that title."""
    assert shown(title) == [name]
    assert title_of(name) == title


def test_titles_that_cannot_be_names_show_as_ids() -> None:
    """A title that is too long, taken already, or the id of another namespace shows as the namespace's own id."""
    assert shown("t" * 256, "/" * 86) == [IDS[0], IDS[1]]
    assert shown("twice", "twice") == ["twice", IDS[1]]
    assert shown(IDS[1], "other") == [IDS[0], "other"]
    assert shown(IDS[1], "t" * 512) == [IDS[0], IDS[1]]
    assert shown(IDS[1], IDS[0]) == [IDS[0], IDS[1]]
    assert shown(IDS[0], "other") == [IDS[0], "other"]
    assert shown(IDS[5]) == [IDS[5]]


@pytest.mark.parametrize(
    ("name", "error"),
    [
        (".kvfs", InvalidError),
        ("%", InvalidError),
        ("%self", InvalidError),
        ("x%+", InvalidError),
        ("a/b", InvalidError),
        ("t" * 256, NameTooLongError),
        ("x\udcff", NameNotTextError),
    ],
)
def test_names_no_namespace_can_get(name: str, error: type[FileError]) -> None:
    """A reserved name, an escape out of place, too long a name and an empty title are refused."""
    with pytest.raises(error):
        title_of(name)


@given(st.lists(TITLES, max_size=len(IDS)))
def test_every_namespace_has_one_legal_name(titles: list[str]) -> None:
    """All namespaces are shown, none twice, whatever the titles; reordering them changes nothing."""
    spaces = [Namespace(ident, title) for ident, title in zip(IDS, titles, strict=False)]
    names = title_names(spaces)
    assert sorted(space.id for space in names.values()) == [space.id for space in spaces]
    assert title_names(reversed(spaces)) == names
    for name, space in names.items():
        assert 0 < len(name.encode()) <= 255
        assert name not in {".", "..", ".kvfs"}
        assert not set("/\0") & set(name)
        if name != space.id and space.title:
            assert title_of(name) == space.title
