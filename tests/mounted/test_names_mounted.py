"""Names through the real kernel: every key has its path, every path that can be made is its key."""

import errno
import os
import random
from pathlib import Path

import pytest
from support.mounted import QUICK, Api, mounted
from support.serving import served_by_process

from kvfs.core.errors import FileError
from kvfs.core.model import Key
from kvfs.core.names import Naming

pytestmark = pytest.mark.fuse

PIECES = [
    "a",
    "b",
    "/",
    "//",
    "%",
    "%2F",
    "%00",
    "%25",
    "%2E",
    ".",
    "..",
    "\0",
    "ü",
    "日",
    "%self",
    "%+",
    " ",
    "x" * 130,
]
NAMES = [
    "a",
    "b",
    "%",
    "%2F",
    "%00",
    "%25",
    "%252F",
    "%2E",
    "%2E%2E",
    "%self",
    "%+",
    "ü",
    "日本",
    " ",
    "a%+",
    "100%",
    "y" * 255,
]


def _keys(count: int) -> set[Key]:
    chance = random.Random(7)
    found: set[Key] = set()
    while len(found) < count:
        key = "".join(chance.choice(PIECES) for _ in range(chance.randint(1, 8)))
        if key not in ("", ".", "..") and len(key.encode()) <= 512:
            found.add(Key(key))
    return found


def test_every_key_of_the_server_is_a_readable_file(tmp_path: Path) -> None:
    """Keys with separators, escapes, NUL, dots and great length written by the API are found at their paths."""
    keys = _keys(400)
    naming = Naming()
    with served_by_process(tmp_path) as served, Api(served) as api:
        namespace = api.result("POST", "", json={"title": "ns"})["id"]
        api.bulk_put(namespace, [{"key": key, "value": f"<{key}>"} for key in sorted(keys)])
        with mounted(tmp_path, "cloudflare:", *QUICK, served=served) as mount:
            root = mount.path / "ns"
            for key in sorted(keys):
                is_directory_too = any(other.startswith(key + "/") for other in keys)
                path = root.joinpath(*naming.path_of(key, is_directory_too=is_directory_too))
                assert path.read_bytes() == f"<{key}>".encode(), (key, path)
                assert os.getxattr(path, "user.kvfs.key") == key.encode()
            found = {os.path.join(top, name) for top, _, names in os.walk(root) for name in names}
            assert len(found) == len(keys)


def test_every_path_that_can_be_made_is_one_key(tmp_path: Path) -> None:
    """Any name that the kernel accepts becomes the key that the rules say, or is refused with EINVAL."""
    naming = Naming()
    chance = random.Random(11)
    expected: dict[str, bytes] = {}
    with served_by_process(tmp_path) as served, Api(served) as api:
        with mounted(tmp_path, "cloudflare:", *QUICK, served=served) as mount:
            root = mount.path / "ns"
            root.mkdir()
            for number in range(300):
                path = [chance.choice(NAMES) for _ in range(chance.randint(1, 3))]
                value = f"{number}".encode()
                try:
                    root.joinpath(*path[:-1]).mkdir(parents=True, exist_ok=True)
                    root.joinpath(*path).write_bytes(value)
                except OSError as exc:
                    refused = (
                        errno.EINVAL,
                        errno.ENAMETOOLONG,
                        errno.EISDIR,
                        errno.ENOTDIR,
                        errno.EEXIST,
                        errno.ENOENT,
                    )
                    if exc.errno not in refused:
                        raise
                    continue
                try:
                    expected[naming.key_of(path)] = value
                except FileError:
                    pytest.fail(f"{path} was made, but is no key's path")
            mount.sync()
        namespace = api.namespace("ns")
        assert set(api.keys(namespace)) == set(expected)
        for key, value in expected.items():
            assert api.get(namespace, key) == value
    assert len(expected) > 20
