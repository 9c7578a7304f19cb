"""Paths inside a mount in the data commands: such a path stands for its source, with the pending changes."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.mounted import QUICK, Api, Mounted, mounted
from support.serving import Served, served_by_process
from support.standing import wait_for

pytestmark = pytest.mark.fuse


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with served_by_process(tmp_path) as ready:
        yield ready


@pytest.fixture
def mount(tmp_path: Path, served: Served) -> Iterator[Mounted]:
    with mounted(tmp_path, "cloudflare:", "--write-back=3600", *QUICK, served=served) as found:
        (found.path / "shop").mkdir()
        (found.path / "shop" / "old").write_text("old")
        (found.path / "shop" / "gone").write_text("gone")
        found.sync()
        yield found


@pytest.fixture
def pending(mount: Mounted) -> Path:
    """Yield a namespace with a key, and three changes that are not at the server."""
    shop = mount.path / "shop"
    (shop / "user").mkdir()
    (shop / "user" / "1").write_bytes(b"\xffnew")
    os.setxattr(shop / "user" / "1", "user.role", b"admin")
    (shop / "old").write_text("changed")
    (shop / "gone").unlink()
    return shop


def test_what_is_pending_is_seen(mount, pending, served, tmp_path):
    """ls, cat and copy show pending changes, which do not reach the server by that."""
    assert mount.kvfs("ls", "-lR", str(pending)).stdout.split("\n")[:-1] == [
        "     never  old",
        '     never  user/1  {"role":"admin"}',
    ]
    assert mount.kvfs("cat", str(pending / "old")).stdout == "changed"
    mount.kvfs("copy", str(pending), str(tmp_path / "x.ndjson"))
    lines = [json.loads(line) for line in (tmp_path / "x.ndjson").read_text().splitlines()]
    assert lines == [
        {"key": "old", "value": "changed"},
        {"key": "user/1", "value": "/25ldw==", "base64": True, "metadata": {"role": "admin"}},
    ]
    with Api(served) as api:
        assert set(api.keys(api.namespace("shop"))) == {"old", "gone"}


def test_a_directory_of_a_mount_is_a_prefix(mount, pending):
    """A directory of a mount stands for the prefix that its path says."""
    assert mount.kvfs("ls", str(pending / "user")).stdout == "user/1\n"


def test_the_mount_and_its_source_are_compared(mount, pending):
    """diff of a mount with its source shows the pending changes."""
    said = mount.kvfs("diff", str(pending), "cloudflare:/shop", "--values", check=False)
    assert said.stdout.splitlines() == ["+ gone", "~ old  (value)", "- user/1"]


def test_what_is_written_meets_nothing_pending(mount, pending, served):
    """A write through a mount's path sends the pending changes first, and is shown when they have settled."""
    mount.kvfs("put", str(pending / "old"), "from outside", "--metadata", '{"n":1}')
    wait_for(lambda: (pending / "old").read_text() == "from outside")
    assert os.getxattr(pending / "old", "user.n") == b"1"
    with Api(served) as api:
        assert set(api.keys(api.namespace("shop"))) == {"old", "user/1"}


def test_the_root_of_a_mount_is_its_account(mount, pending):
    """The root of a mount without a namespace shows the namespaces of its account."""
    assert mount.kvfs("ls", str(mount.path)).stdout.endswith("  shop\n")


def test_what_a_command_writes_shows_at_once(tmp_path):
    """A command's write to a store on this machine shows when it has ended, because the mount's value gives way."""
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nprintf edited > "$1"\n')
    editor.chmod(0o700)
    (tmp_path / "x.ndjson").write_text('{"key":"page","value":"copied"}\n')
    with mounted(tmp_path, "local:", "--write-back=3600") as mount:
        page = mount.path / "shop" / "page"
        page.parent.mkdir()
        page.write_text("saved")
        mount.kvfs("backup", str(page.parent), str(tmp_path / "backups"))
        shown = []
        for words in (
            ("put", str(page), "put"),
            ("copy", str(tmp_path / "x.ndjson"), str(page.parent), "--if-exists=overwrite"),
            ("restore-backup", str(tmp_path / "backups"), str(page.parent), "--yes"),
            ("rm", str(page), "--yes"),
        ):
            page.write_text("ours")
            mount.kvfs(*words)
            shown.append(page.read_text() if page.exists() else None)
        page.write_text("ours")
        replace(mount, env={**mount.env, "VISUAL": str(editor)}).kvfs("edit", str(page))
        assert [*shown, page.read_text()] == ["put", "copied", "saved", None, "edited"]


def test_what_a_command_writes_over_the_api_shows_at_once(tmp_path, served):
    """It shows at once, and not when the mount's own value has settled, which takes a minute and a half here."""
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nprintf edited > "$1"\n')
    editor.chmod(0o700)
    (tmp_path / "x.ndjson").write_text('{"key":"page","value":"copied"}\n')
    with mounted(tmp_path, "cloudflare:", "--write-back=0.1", served=served) as mount:
        page = mount.path / "shop" / "page"
        page.parent.mkdir()
        page.write_text("saved")
        mount.kvfs("backup", str(page.parent), str(tmp_path / "backups"))
        env = {**mount.env, "VISUAL": str(editor)}
        shown = []
        for words in (
            ("put", str(page), "put", "--metadata", '{"n":1}'),
            ("copy", str(tmp_path / "x.ndjson"), str(page.parent), "--if-exists=overwrite"),
            ("restore-backup", str(tmp_path / "backups"), str(page.parent), "--yes"),
            ("rm", str(page), "--yes"),
            ("edit", str(page)),
        ):
            page.write_text("ours, and longer than the others")
            replace(mount, env=env).kvfs(*words)
            shown.append(page.read_text() if page.exists() else None)
        assert shown == ["put", "copied", "saved", None, "edited"]
        assert sorted(os.listdir(page.parent)) == ["page"]
        assert not list((mount.state / "told").iterdir())
