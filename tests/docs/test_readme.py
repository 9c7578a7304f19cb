"""Every line of the README is run, and its picture is one of the commands of its tour."""

import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support import picture
from support.mounted import REPOSITORY, Mounted, environment, mounted
from support.serving import served_by_process

pytestmark = pytest.mark.fuse

README = (REPOSITORY / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
OTHERWISE = {
    "./scripts/run": "scripts/try-readme, on a fresh Debian",
    "./scripts/test": "it is what runs this",
}
"""Lines that are run elsewhere, and where."""


@pytest.fixture
def kv() -> Iterator[Mounted]:
    """Make the state that `scripts/run` leaves: the embedded store on `kv`, with its sample."""
    with (
        tempfile.TemporaryDirectory(prefix="kvfs-tests-", dir="/var/tmp") as top,
        mounted(Path(top), "local:", name="kv") as mount,
    ):
        picture.make_sample(mount)
        yield mount


def test_the_readme_is_short_and_has_shell_blocks_only() -> None:
    """The README can be read in some minutes, and every block of it can be typed."""
    assert len(README.splitlines()) <= 150
    assert {language for language, _ in BLOCKS} == {"sh"}


def test_the_tour_can_be_walked(kv: Mounted) -> None:
    """Every line of the tour succeeds in a shell on a terminal, and prints what its comment says, for the picture."""
    commands = picture.tour()
    text = re.sub(r"\x1b\[[\d;]*m", "", picture.session(kv, commands, shown=("",)))
    said = _by_command(text, commands)
    assert said["cat kv/sample/greeting"] == "Hello from Workers KV."
    assert re.search(
        r" 7 \d{4}-\d\d-\d\d \d\d:\d\d banana", said[r"ls -l --time-style=+%F\ %R kv/sample/fruit"]
    )
    assert 'user.colour="red"' in said["getfattr -d kv/sample/fruit/apple"]
    assert said["kvfs find kv/sample --meta colour=yellow"] == "fruit/banana"
    assert 'user.kvfs.key="fruit/apple"' in said["getfattr -n user.kvfs.key kv/sample/fruit/apple"]
    assert "kv/sample/fruit/apple:red, round" in said["grep -r round kv/sample"]
    assert kv.process.wait(30) == 0
    tar = subprocess.run(
        ["tar", "--xattrs", "-tvvf", kv.path.parent / "backup.tar"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "user.colour" in tar.stdout, "the backup keeps metadata"
    assert ElementTree.fromstring(picture.picture(text)).tag.endswith("svg")


def _by_command(text: str, commands: list[str]) -> dict[str, str]:
    """Return the output of each command."""
    found = {}
    for command, following in zip(commands, [*commands[1:], None], strict=True):
        after = text.split(f"$ {command}\n", 1)[1]
        found[command] = (after.split(f"$ {following}\n", 1)[0] if following else after).strip()
    return found


def test_the_picture_is_of_the_tour() -> None:
    """Each command in docs/terminal.svg is a line of the tour; `scripts/picture` draws it again."""
    svg = ElementTree.parse(REPOSITORY / "docs" / "terminal.svg")
    lines = "".join(svg.getroot().itertext()).replace("\xa0", " ")
    shown = [command for command in picture.tour() if command.startswith(picture.SHOWN)]
    assert len(shown) >= 6
    assert [command for command in shown if f"$ {command}" not in lines] == []


def test_an_account_is_mounted_as_the_readme_says() -> None:
    """The block with the token works for a user whose account is a server of kvfs."""
    block = next(body for _, body in BLOCKS if "CLOUDFLARE_API_TOKEN" in body)
    with tempfile.TemporaryDirectory(prefix="kvfs-tests-", dir="/var/tmp") as name:
        home = Path(name)
        with served_by_process(home) as served:
            env = environment(home, served) | {"HOME": str(home)}
            lines = block.replace("…", shlex.quote(served.token)).replace(".venv/bin/kvfs", "kvfs")
            script = (
                f'kvfs() {{ {sys.executable} -m kvfs "$@"; }}\n{lines}\nmkdir ~/kv/shop\nkvfs umount ~/kv\n'
            )
            done = subprocess.run(
                ["bash", "-euc", script], env=env, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            assert "is mounted on" in done.stdout


def test_every_line_of_the_readme_is_run() -> None:
    """Every line of the README is run by one of the tests here, or in the place that `OTHERWISE` names."""
    here = set(picture.tour()) | {"export CLOUDFLARE_API_TOKEN=…", "mkdir -p ~/kv"}
    for _, body in BLOCKS:
        for line in body.splitlines():
            command = line.partition(" # ")[0].rstrip()
            is_known = command in here or command.startswith(
                (*OTHERWISE, ".venv/bin/kvfs mount", "export PATH=")
            )
            assert is_known, f"no test runs: {line}"
