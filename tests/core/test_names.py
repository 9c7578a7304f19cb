"""The bijection between keys and paths: a table of examples, then properties over hostile text."""

from itertools import pairwise

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from kvfs.core.errors import FileError, InvalidError, NameNotTextError, NameTooLongError
from kvfs.core.limits import FORBIDDEN_KEYS
from kvfs.core.model import Key
from kvfs.core.names import DirRef, Naming

SLASH = Naming()
COLON = Naming(":")
FLAT = Naming("")
ODD = [Naming(char) for char in "%+2E5.\0é𝄞"]
GUARDED = Naming("/", frozenset({".kvfs"}))
EVERY = [SLASH, COLON, FLAT, GUARDED, *ODD]

ESCAPE_PARTS = ["%", "%+", "+", "0", "00", "2", "25", "2F", "2E", "E", "F", "f", "/", ":", ".", "..", "\0"]
WORD_PARTS = ["self", "%self", "kvfs", ".kvfs", "a", "ü", "𝄞", "x" * 60, "é" * 120, "y" * 249, "%2" * 60]
PARTS = st.sampled_from(ESCAPE_PARTS + WORD_PARTS)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
HOSTILE = st.lists(PARTS | TEXT, max_size=14).map("".join)
LONG = st.builds(
    lambda head, filler, count, tail: head + filler * count + tail,
    HOSTILE,
    st.sampled_from(["a", "%", "é", "𝄞", "\0", "%25", "+"]),
    st.integers(0, 260),
    HOSTILE,
)
KEYS = (HOSTILE | LONG).filter(lambda key: len(key.encode()) <= 512 and key not in FORBIDDEN_KEYS).map(Key)
NAMES = (HOSTILE | LONG).filter(lambda name: 0 < len(name.encode()) <= 255)
NAMINGS = st.sampled_from(EVERY)


# tables


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("plain", ("plain",)),
        ("a/b", ("a", "b")),
        ("foo%20bar", ("foo%20bar",)),
        ("100%", ("100%",)),
        ("ünï/日本", ("ünï", "日本")),
        ("%2f", ("%2f",)),
        ("a+b%+c", ("a+b%+c",)),
        ("...", ("...",)),
        ("a\0b", ("a%00b",)),
        ("a//b", ("a", "%", "b")),
        ("/a", ("%", "a")),
        ("a/", ("a", "%")),
        ("./a", ("%2E", "a")),
        ("a/..", ("a", "%2E%2E")),
        ("%", ("%25",)),
        ("%2E", ("%252E",)),
        ("%2E%2E", ("%252E%2E",)),
        ("%2F", ("%252F",)),
        ("%00", ("%2500",)),
        ("%25", ("%2525",)),
        ("%252F", ("%25252F",)),
        ("%%25", ("%%2525",)),
        ("%self", ("%25self",)),
        ("%25self", ("%2525self",)),
        ("x%self", ("x%self",)),
        ("x%+", ("x%25+",)),
        ("%+", ("%25+",)),
        ("x%25+", ("x%2525+",)),
        ("a" * 255, ("a" * 255,)),
        ("a" * 256, ("a" * 253 + "%+", "aaa")),
        ("é" * 128, ("é" * 126 + "%+", "éé")),
        ("a" * 253 + "%25/b", ("a" * 253 + "%+", "%2525", "b")),
        ("a" * 251 + "%+" + "b" * 9, ("a" * 251 + "%%+", "+" + "b" * 9)),
        ("a" * 248 + "%+" + "𝄞" * 2, ("a" * 248 + "%25+%+", "𝄞𝄞")),
        ("a" * 511 + "/", ("a" * 253 + "%+", "a" * 253 + "%+", "aaaaa", "%")),
    ],
)
def test_table_of_paths(key: str, path: tuple[str, ...]) -> None:
    """A path escapes only what must be escaped, and leads back to its key."""
    assert SLASH.path_of(Key(key)) == path
    assert SLASH.key_of(path) == key


@pytest.mark.parametrize(
    ("naming", "key", "path"),
    [
        (COLON, "user:1", ("user", "1")),
        (COLON, "http://x", ("http", "%2F%2Fx")),
        (COLON, "a/b%2F", ("a%2Fb%252F",)),
        (FLAT, "a/b", ("a%2Fb",)),
        (FLAT, "a:b", ("a:b",)),
        (GUARDED, ".kvfs", ("%2Ekvfs",)),
        (GUARDED, "%2Ekvfs/.kvfs", ("%252Ekvfs", "%2Ekvfs")),
        (SLASH, ".kvfs", (".kvfs",)),
    ],
)
def test_table_of_other_separators(naming: Naming, key: str, path: tuple[str, ...]) -> None:
    """With another separator, or none, the slash is text, and a reserved name is escaped."""
    assert naming.path_of(Key(key)) == path
    assert naming.key_of(path) == key


def test_value_beside_a_directory_is_self() -> None:
    """Key `a` beside keys `a/…` is the file `a/%self`."""
    assert SLASH.path_of(Key("a"), is_directory_too=True) == ("a", "%self")
    assert SLASH.key_of(("a", "%self")) == "a"
    assert SLASH.key_of(("a", "%25self")) == "a/%self"
    assert SLASH.self_key(DirRef("a/", 2)) == "a"
    assert SLASH.self_key(DirRef.ROOT) is None
    assert SLASH.self_key(DirRef("../", 3)) is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "%2F",
        "a%25",
        "%2500x%00%2F",
        "%25x",
        "a/b",
        "a\0",
        "x%+",
        "%self",
        "%2Exxx%25",
        "%2520x%2F",
    ],
)
def test_no_text_has_these_names(name: str) -> None:
    """A name that encoding would not give back belongs to no text."""
    assert SLASH.decode_name(name) is None


@pytest.mark.parametrize(
    "path",
    [
        (),
        ("%",),
        ("%2E",),
        ("%2E%2E",),
        ("%self",),
        ("%", "%self"),
        ("a", "%self", "b"),
        ("a", "%self", "%self"),
        ("short%+", "x"),
        ("a" * 253 + "%+",),
        ("a" * 253 + "%+", "aa"),
        ("a" * 253 + "%+", "%self"),
        ("a" * 253 + "%+", "%"),
        ("a" * 252 + "%+", "aaaaa"),
        ("a" * 249 + "%+", "𝄞" * 9),
        ("a", "."),
        ("a", ""),
    ],
)
def test_no_key_has_these_paths(path: tuple[str, ...]) -> None:
    """Forbidden keys, wrong cuts and names out of place are EINVAL."""
    with pytest.raises(InvalidError):
        SLASH.key_of(path)


@pytest.mark.parametrize(
    ("path", "error"),
    [
        (("a" * 256,), NameTooLongError),
        (("a" * 255, "b" * 255, "c"), NameTooLongError),
        (("a" * 253 + "%+", "a" * 253 + "%+", "a" * 7), NameTooLongError),
        (("x\udcff",), NameNotTextError),
    ],
)
def test_what_is_too_long_or_no_text(path: tuple[str, ...], error: type[FileError]) -> None:
    """A name above 255 bytes, a key above 512 and bytes that are not UTF-8 each get an error of their own."""
    with pytest.raises(error):
        SLASH.key_of(path)


def test_the_longest_keys() -> None:
    """A key may have 512 bytes, in a path of several names or with an empty last component."""
    assert SLASH.key_of(("a" * 255, "b" * 255)) == "a" * 255 + "/" + "b" * 255
    assert SLASH.key_of(("a" * 255, "b" * 254, "c")) == "a" * 255 + "/" + "b" * 254 + "/c"
    below = SLASH.child(DirRef("a" * 255 + "/", 256), b"b" * 255).directory
    assert below == DirRef("a" * 255 + "/" + "b" * 255 + "/", 512)
    last = SLASH.child(below, b"%")
    assert last.key == "a" * 255 + "/" + "b" * 255 + "/"
    assert last.directory is None


@pytest.mark.parametrize("size", range(246, 254))
def test_a_chunk_is_as_long_as_can_be(size: int) -> None:
    """A chunk is a name exactly when some next character would not fit it, so from 250 bytes on."""
    name = b"a" * size + b"%+"
    if size < 250:
        with pytest.raises(InvalidError):
            SLASH.child(DirRef.ROOT, name)
    else:
        child = SLASH.child(DirRef.ROOT, name)
        assert child.key is None
        assert child.directory == DirRef("a" * size, 0)
        assert child.directory.is_chunk
        assert SLASH.key_of((name.decode(), "𝄞" * 3)) == "a" * size + "𝄞" * 3


def test_a_key_with_the_prefix_of_a_chunk_need_not_be_in_it() -> None:
    """A component that is short enough, or cut elsewhere, is not listed in the chunk's directory."""
    chunk = SLASH.child(DirRef.ROOT, b"a" * 252 + b"%+").directory
    assert chunk is not None
    assert SLASH.split_child(chunk, Key("a" * 252 + "éé")) == ("éé", None)
    assert SLASH.split_child(chunk, Key("a" * 252 + "éé/b")) == ("éé", DirRef("a" * 252 + "éé/", 255))
    assert SLASH.split_child(chunk, Key("a" * 252)) == ("", None)
    assert SLASH.split_child(DirRef("𝄞" * 63, 0), Key("𝄞" * 63)) == ("", None)
    assert SLASH.split_child(chunk, Key("a" * 252 + "b")) == ("", None)
    assert SLASH.split_child(chunk, Key("a" * 252 + "bbbbb")) == ("", None)
    assert SLASH.split_child(chunk, Key("a" * 252 + "/b")) == ("", None)


def test_a_second_chunk_goes_on_where_the_first_was_cut() -> None:
    """A chunk below a chunk belongs there only when the longer component would be cut at the same place."""
    second = SLASH.child(DirRef("a" * 253, 0), b"b" * 253 + b"%+").directory
    assert second == DirRef("a" * 253 + "b" * 253, 0)
    with pytest.raises(InvalidError):
        SLASH.child(DirRef("a" * 252, 0), b"b" * 250 + b"%+")
    with pytest.raises(NameTooLongError):
        SLASH.child(second, b"c" * 250 + b"%+")


@pytest.mark.parametrize("separator", ["//", "ab", "\ud800"])
def test_a_separator_is_one_character(separator: str) -> None:
    """Any one character that UTF-8 can hold, or none."""
    with pytest.raises(InvalidError):
        Naming(separator)


# properties


@given(NAMINGS, KEYS)
@example(SLASH, Key("a" * 251 + "%+" + "b" * 9))
@example(SLASH, Key("%25" * 60 + "%+" * 60))
def test_key_to_path_to_key(naming: Naming, key: Key) -> None:
    """Every key has a path of legal names that leads back to it."""
    path = naming.path_of(key)
    for name in path:
        assert 0 < len(name.encode()) <= 255
        assert name not in {".", "..", "%self"} | naming.reserved
        assert not set("/\0") & set(name)
    assert naming.key_of(path) == key


@given(NAMINGS, st.lists(NAMES, min_size=1, max_size=4))
@example(SLASH, ["a" * 250 + "%+", "𝄞𝄞"])
@example(SLASH, ["a" * 250 + "%+", "b" * 9])
def test_path_to_key_to_path(naming: Naming, path: list[str]) -> None:
    """A path that can be created is the path of exactly one key; the others are refused."""
    try:
        key = naming.key_of(path)
    except FileError:
        return
    is_self = path[-1] == "%self"
    assert naming.path_of(key, is_directory_too=is_self) == tuple(path)


@given(NAMINGS, KEYS, st.integers(0, 3), st.integers(0, 600), PARTS)
def test_a_changed_path_is_another_key_or_none(
    naming: Naming, key: Key, which: int, at: int, part: str
) -> None:
    """Near misses of a key's path, cuts moved and escapes spoilt, never reach a key with another path."""
    path = list(naming.path_of(key))
    if which == 0 and len(path) > 1:  # move the border between two names
        index = at % (len(path) - 1)
        both = path[index].removesuffix("%+") + path[index + 1]
        cut = at % (len(both) + 1)
        path[index : index + 2] = [both[:cut] + "%+", both[cut:]]
    else:
        name = path[at % len(path)]
        cut = at % (len(name) + 1)
        path[at % len(path)] = name[:cut] + part + name[cut + which :]
    assume("%self" not in path)
    try:
        found = naming.key_of(path)
    except FileError:
        return
    assert naming.path_of(found) == tuple(path)


@given(NAMINGS, KEYS, KEYS)
def test_two_keys_have_two_paths(naming: Naming, one: Key, other: Key) -> None:
    """No two keys share a path, and no key's file is another key's chunk directory."""
    assume(one != other)
    paths = naming.path_of(one), naming.path_of(other)
    assert paths[0] != paths[1]
    if not naming.separator:
        assert paths[0] != paths[1][: len(paths[0])]


@given(NAMINGS, HOSTILE)
def test_decoding_a_component_gives_it_back(naming: Naming, text: str) -> None:
    """A component of one name decodes to itself."""
    component = text.replace(naming.separator, "") if naming.separator else text
    names = naming.encode_component(component)
    if len(names) == 1:
        assert naming.decode_name(names[0]) == component


@given(NAMINGS, HOSTILE)
def test_a_decoded_name_encodes_to_itself(naming: Naming, name: str) -> None:
    """A name that decodes is the encoding of its decoded text."""
    text = naming.decode_name(name)
    if text is not None:
        assert naming.encode_component(text) == (name,)


def path_to(naming: Naming, ref: DirRef) -> list[str]:
    """The names that lead from the namespace to a directory, by the way up."""
    return [] if ref == DirRef.ROOT else [*path_to(naming, naming.parent_of(ref)), naming.name_in_parent(ref)]


@given(NAMINGS, KEYS)
@example(SLASH, Key("a" * 300 + "/" + "b" * 200))
@example(FLAT, Key("%" * 500))
def test_walking_down_and_listing_agree(naming: Naming, key: Key) -> None:
    """From the root, what a listing shows of a key is what a lookup of that name finds, step by step."""
    here, names = DirRef.ROOT, []
    while True:
        name, below = naming.split_child(here, key)
        child = naming.child(here, name.encode())
        names.append(name)
        if below is None:
            break
        assert child.directory == below
        assert naming.parent_of(below) == here
        assert naming.name_in_parent(below) == name
        assert path_to(naming, below) == names
        here = below
    assert child.key == key
    assert tuple(names) == naming.path_of(key)
    assert naming.parent_of_key(key) == here
    assert naming.name_of_key(key) == names[-1]


@given(NAMINGS, st.lists(NAMES, min_size=1, max_size=4), KEYS)
def test_a_directory_that_can_be_made_lists_what_is_in_it(naming: Naming, path: list[str], tail: Key) -> None:
    """The listing of a directory shows a key with its prefix exactly when its path leads through."""
    here = DirRef.ROOT
    try:
        for name in path:
            below = naming.child(here, name.encode()).directory
            assert below is None or naming.parent_of(below) == here
            if below is None:
                return
            here = below
    except FileError:
        return
    assert path_to(naming, here) == path
    key = Key(here.prefix + tail)
    assume(len(key.encode()) <= 512)
    name, _ = naming.split_child(here, key)
    through = naming.path_of(key)[: len(path) + 1]
    assert (through[:-1] == tuple(path) and through[-1] == name) if name else through[:-1] != tuple(path)


@given(NAMINGS, st.lists(KEYS, max_size=12))
def test_the_names_of_a_directory_are_all_different(naming: Naming, keys: list[Key]) -> None:
    """No two children of the root share a name, except a key and the directory below it."""
    shown = {naming.split_child(DirRef.ROOT, key) for key in keys}
    files = [name for name, below in shown if below is None]
    folders = [name for name, below in shown if below is not None]
    assert len(set(files)) == len(files)
    assert len(set(folders)) == len(folders)
    for name in set(files) & set(folders):
        child = naming.child(DirRef.ROOT, name.encode())
        assert child.directory is not None
        assert naming.self_key(child.directory) == child.key


@given(NAMINGS, st.binary(max_size=300) | NAMES.map(str.encode))
@settings(max_examples=300)
def test_any_bytes_are_a_child_or_a_file_error(naming: Naming, name: bytes) -> None:
    """Any bytes from the kernel are answered with a child or one of our errors."""
    try:
        child = naming.child(DirRef.ROOT, name)
    except FileError:
        return
    assert child.key is not None or child.directory is not None


def test_cuts_are_the_longest_for_every_next_character() -> None:
    """Moving any character of a cut component into the piece before it would exceed 253 bytes."""
    for filler in ["a", "é", "𝄞", "\0", "%25", "%+", "a%2", "%"]:
        for shift in range(9):
            names = SLASH.encode_component(("b" * shift + filler * 300)[:500])
            for chunk, following in pairwise(names):
                text = SLASH.decode_name(chunk[:-2])
                assert text is not None
                rest = SLASH.decode_name(following.removesuffix("%+")) or ""
                for more in range(1, 4):
                    longer = SLASH._escape(text + rest[:more])
                    assert len(longer.encode()) > 253
