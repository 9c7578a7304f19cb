"""The command line of the data commands, in this process, with a state directory of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from kvfs.cli import main


@dataclass
class Said:
    """The exit status of a command, and its output."""

    status: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


Kvfs = Callable[..., Said]


@pytest.fixture
def kvfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Kvfs:
    """Return a function that runs `kvfs WORDS` and returns its end; with `ok=True` (the default) it must end well."""
    monkeypatch.setenv("KVFS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)

    def run(*words: object, ok: bool = True) -> Said:
        capsys.readouterr()
        status = main([str(word) for word in words])
        said = Said(status, *capsys.readouterr())
        assert not ok or status == 0, said
        return said

    return run
