"""The command lines of docs/moving-data.md: every one is run, in the order of the page, against a server."""

import io
import os
import re
import shlex
import subprocess
import time
from pathlib import Path

import pytest
import trio
from support.moves import fill_store
from support.serving import served_by_process

from kvfs.cli import main
from kvfs.core.model import Entry, Key
from kvfs.store.embedded.sqlite_store import open_sqlite

PAGE = Path(__file__).parents[2] / "docs" / "moving-data.md"
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SOON = int(time.time()) + 3600
SHOP = {
    Key("config.json"): Entry(b'{"a":1}', b'{"role":"admin"}', SOON),
    Key("config/a"): Entry(b"1"),
    Key("tmp/x"): Entry(b"x"),
    Key("user/1"): Entry(b"ada", b'{"role":"admin"}', SOON),
    Key("logo"): Entry(b"\xff\xd8"),
}
NOT_RUN = ("export CLOUDFLARE_API_TOKEN=", "KVFS_BACKUP_", "sudo systemctl")
"""What a test has no business to do: a token of somebody's, the units of this machine."""
INSTEAD = {
    "OTHER-ACCOUNT": "f" * 32,
    "/var/backups/shop": "backups",
    "--at 2026-11-28": "--at 2999-01-01",
    "kvfs rm -r": "kvfs rm --yes -r",
}
"""What a reader would put there, or answer."""
STATUS = {"kvfs diff cloudflare:/shop ": 1}
"""Commands that end with another status than 0: by then the places differ."""


def lines() -> list[str]:
    """Return the command lines of the page, without the text behind `#`."""
    blocks = BLOCK.findall(PAGE.read_text())
    return [line for block in blocks for line in block.splitlines() if line and not line.startswith("#")]


def run(line: str) -> int:
    """Run one of them; return its exit status."""
    for word, other in INSTEAD.items():
        line = line.replace(word, other)
    words = shlex.split(line, comments=True)
    if words[0] == "kvfs":
        return main(words[1:])
    return subprocess.run(words, check=False).returncode


def test_every_line_of_the_page_is_run(tmp_path, monkeypatch, capfd):
    """Every line of the page ends as the page says, with a namespace, files and a directory like the reader's."""

    async def fill() -> None:
        async with open_sqlite(tmp_path / "store.sqlite", account="0123456789abcdef" * 2) as store:
            await fill_store(store, "shop", SHOP)

    trio.run(fill)
    for directory in ("config", "mountpoint/shop", "somewhere"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "config" / "b").write_text("2")
    (tmp_path / "mountpoint" / "shop" / "k").write_text("v")
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\necho more >> "$1"\n')
    editor.chmod(0o700)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with served_by_process(tmp_path) as served:
        for name, value in {
            "CLOUDFLARE_API_TOKEN": served.token,
            "CLOUDFLARE_ACCOUNT_ID": served.account,
            "CLOUDFLARE_API_BASE_URL": served.url,
            "KVFS_STATE_DIR": str(tmp_path / "state"),
            "XDG_DATA_HOME": str(tmp_path / "data"),
            "EDITOR": str(editor),
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("VISUAL", raising=False)
        for line in lines():
            if not line.startswith(NOT_RUN):
                wanted = next((status for start, status in STATUS.items() if line.startswith(start)), 0)
                assert run(line) == wanted, f"{line}\n{capfd.readouterr()}"
    assert os.getxattr(tmp_path / "somewhere" / "user" / "1", "user.role") == b"admin"


@pytest.mark.parametrize("start", [*NOT_RUN, *STATUS, *INSTEAD])
def test_exceptions_are_still_needed(start):
    """Each line that is not run, or is run in another way, is on the page."""
    assert any(start in line for line in lines())
