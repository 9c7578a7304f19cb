"""A picture of a terminal: the commands of the README's tour, run on a real mount in a real terminal.

`scripts/picture` writes it to docs/terminal.svg. All of the tour is run; the picture shows what fits.
"""

import io
import os
import pty
import re
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text
from support.mounted import REPOSITORY, Mounted, mounted

WIDTH, SECONDS = 100, 60.0
HOME = "/root"
"""What the picture calls the temporary directory of the session."""
README = REPOSITORY / "README.md"
SHOWN = (
    "touch -d",
    "ls -l",
    "setfattr",
    "getfattr -d",
    "kvfs find",
    "grep -r",
    "cp -a",
    "rm -r",
    "kvfs restore",
    "kvfs status",
)
"""Commands of the tour that the picture shows, by how they begin."""
_PROMPT = "\\e[1;32m$ \\e[0m"
_FONTS = re.compile(r"\s*@font-face \{\{.*?\}\}", re.DOTALL)


def tour() -> list[str]:
    """Return the lines of the README's tour, without comments; the first, which sets PATH, is left out."""
    section = re.search(r"^## A tour\n.*?```sh\n(.*?)```", README.read_text(), re.DOTALL | re.MULTILINE)
    assert section is not None
    return [line.partition(" # ")[0].rstrip() for line in section[1].splitlines()[1:] if line.strip()]


def make_sample(mount: Mounted) -> None:
    """Fill the mount `kv` in the way of scripts/run."""
    text = (REPOSITORY / "scripts" / "run").read_text()
    function = re.search(r"^make_sample\(\) \{.*?^\}", text, re.MULTILINE | re.DOTALL)
    assert function is not None
    subprocess.run(
        ["bash", "-euc", f"{function[0]}\nmake_sample {mount.path.name}"], cwd=mount.path.parent, check=True
    )


def session(mount: Mounted, commands: Sequence[str], shown: Sequence[str] = SHOWN) -> str:
    """Run the commands in one shell on a terminal; return the output of the shown ones, as a terminal gets it."""
    script = [
        f'kvfs() {{ "{sys.executable}" -m kvfs "$@"; }}',
        "alias ls='ls --color=always'",
        "shopt -s expand_aliases",
    ]
    for command in commands:
        is_shown = command.startswith(tuple(shown))
        typed = command.replace("\\", "\\\\").replace("'", "'\\''").replace("%", "%%")
        script.append(f"printf '{_PROMPT}{typed}\\n'" if is_shown else "true")
        script.append(command if is_shown else f"{{ {command}; }} >/dev/null")
    env = mount.env | {"TERM": "xterm-256color", "COLUMNS": str(WIDTH), "LC_ALL": "C.UTF-8"}
    env.pop("NO_COLOR", None)
    text = _on_a_terminal(["bash", "-euc", "\n".join(script)], mount.path.parent, env)
    return text.replace(str(mount.path.parent), HOME)


def _on_a_terminal(command: Sequence[str], directory: Path, env: dict[str, str]) -> str:
    ours, theirs = pty.openpty()
    subprocess.run(["stty", "rows", "60", "cols", str(WIDTH)], stdin=theirs, check=True)
    with subprocess.Popen(
        command, cwd=directory, env=env, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        text, deadline = b"", time.monotonic() + SECONDS
        while time.monotonic() < deadline and select.select([ours], [], [], SECONDS)[0]:
            try:
                text += os.read(ours, 65536)
            except OSError:  # the other side is closed
                break
        os.close(ours)
    assert process.returncode == 0, text.decode(errors="replace")
    return text.decode(errors="replace").replace("\r\n", "\n")


def picture(text: str) -> str:
    """Return a terminal's content as SVG, without fonts from elsewhere."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(text.rstrip("\n")))
    form = _FONTS.sub("", CONSOLE_SVG_FORMAT).replace(
        "Fira Code", "ui-monospace, Menlo, Consolas, DejaVu Sans Mono"
    )
    return console.export_svg(title="kvfs", theme=MONOKAI, code_format=form, unique_id="kvfs")


def main() -> None:
    """Write the picture to the named file, else to docs/terminal.svg."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / "docs" / "terminal.svg"
    with (
        tempfile.TemporaryDirectory(prefix="kvfs-", dir="/var/tmp") as top,
        mounted(Path(top), "local:", name="kv") as mount,
    ):
        make_sample(mount)
        out.write_text(picture(session(mount, tour())) + "\n")


if __name__ == "__main__":
    main()
