"""The official Node SDK against `kvfs serve`, which it finds by the exports of --print-env alone."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.mounted import environment
from support.wrangler import NEW, OLD, wrangler_command

SCRIPT = Path(__file__).parents[1] / "support" / "sdk.mjs"


@pytest.fixture
def exports(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Return what `eval "$(kvfs serve --print-env)"` would export; the server ends with the test."""
    words = [sys.executable, "-m", "kvfs", "serve", "--ephemeral", "--print-env", "--listen", "127.0.0.1:0"]
    printed = subprocess.run(
        words, env=environment(tmp_path, None), capture_output=True, text=True, check=True, timeout=60
    ).stdout
    found = {}
    for line in printed.splitlines():
        name, _, value = shlex.split(line.removeprefix("export "))[0].partition("=")
        found[name] = value
    yield found
    os.kill(int(found["KVFS_SERVE_PID"]), signal.SIGTERM)


@pytest.mark.parametrize("version", [OLD, NEW])
def test_every_call_of_the_node_sdk_works(tmp_path: Path, exports: dict[str, str], version: str) -> None:
    """Namespaces, values, metadata, keys and the bulk calls work with the Node SDK on Node 20 and 24."""
    (command,), env = wrangler_command(version)
    shutil.copyfile(SCRIPT, tmp_path / "sdk.mjs")
    (tmp_path / "node_modules").symlink_to(Path(command).parents[1])
    done = subprocess.run(
        ["node", "sdk.mjs"],
        cwd=tmp_path,
        env=env | exports,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "done\n", done.stderr
