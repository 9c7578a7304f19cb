"""Errors that a user sees: one line, an exit status, never a traceback."""

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import click
import pytest

import kvfs
from kvfs.cli import main
from kvfs.cli.exits import Exit, describe, guarded
from kvfs.cli.mount import prepare_state
from kvfs.cli.premount import check_fuse, check_source_outside
from kvfs.config import CloudflareSource, Config, LocalSource
from kvfs.core.errors import JournalLockedError, KvfsError, UserError
from kvfs.host.state import control_path

ROOT = Path(kvfs.__file__).parent.parent


@pytest.fixture(autouse=True)
def _own_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KVFS_STATE_DIR", str(tmp_path / "state"))
    for name in ("CLOUDFLARE_API_TOKEN", "CLOUDFLARE_ACCOUNT_ID", "CLOUDFLARE_API_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def mountpoint(tmp_path: Path) -> Path:
    (tmp_path / "mnt").mkdir()
    return tmp_path / "mnt"


def complaint(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Return the exit status and the one line of a command that fails."""
    status = main(list(words))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("kvfs: ")
    assert err.count("\n") == 1
    return status, err.removeprefix("kvfs: ").rstrip("\n")


def test_a_missing_mount_point(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message about a missing mount point names the command that makes it."""
    status, line = complaint(capsys, "mount", f"local:{tmp_path}/s", f"{tmp_path}/none")
    assert (status, line) == (1, f"the mount point {tmp_path}/none does not exist: mkdir {tmp_path}/none")


def test_a_mount_point_that_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A mount point that is a file is refused as not a directory."""
    (tmp_path / "file").touch()
    assert "is not a directory" in complaint(capsys, "mount", f"local:{tmp_path}/s", f"{tmp_path}/file")[1]


def test_a_mount_point_that_is_not_empty(mountpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A mount point with files in it is refused, because they would be hidden."""
    (mountpoint / "file").touch()
    line = complaint(capsys, "mount", f"local:{mountpoint.parent}/s", str(mountpoint))[1]
    assert line == f"the mount point {mountpoint} is not empty: its files would be hidden"


def test_no_token(mountpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing token is found before anything is mounted."""
    assert complaint(capsys, "mount", "cloudflare:acc", str(mountpoint))[1].startswith(
        "no token: set CLOUDFLARE"
    )


def test_no_account(mountpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing token is reported before a missing account, because the token is needed to ask for the account."""
    assert complaint(capsys, "mount", "cloudflare:", str(mountpoint))[1].startswith("no token: ")


def test_no_fusermount(
    mountpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message about a missing fusermount names the package."""
    monkeypatch.setenv("PATH", str(mountpoint))
    line = complaint(capsys, "mount", f"local:{mountpoint.parent}/s", str(mountpoint))[1]
    assert line.startswith("fusermount3 is missing: install the package fuse3")


def test_no_fuse_device(tmp_path: Path) -> None:
    """A machine or container without FUSE gets a message of its own."""
    with pytest.raises(UserError, match=r"none is missing: sudo modprobe fuse"):
        check_fuse(allow_other=False, device=tmp_path / "none")


def test_a_fuse_device_that_cannot_be_opened(tmp_path: Path) -> None:
    """A device that cannot be opened is reported with the kernel's reason and with advice."""
    (tmp_path / "device").mkdir()
    with pytest.raises(UserError, match=r"cannot open .*device \(Is a directory\): sudo chmod 666"):
        check_fuse(allow_other=False, device=tmp_path / "device")


def test_the_state_below_the_mount_point(mountpoint: Path) -> None:
    """A state directory below the mount point is refused, because the daemon would wait for itself."""
    config = Config(source=CloudflareSource("a"), mountpoint=mountpoint, state_dir=mountpoint / "state")
    with pytest.raises(UserError, match=r"the state directory .* lies below the mount point"):
        check_source_outside(config)


def test_the_store_below_the_mount_point(mountpoint: Path, tmp_path: Path) -> None:
    """A store below the mount point is refused, also if a link leads there."""
    (tmp_path / "link").symlink_to(mountpoint)
    source = LocalSource(tmp_path / "link" / "store.sqlite")
    with pytest.raises(UserError, match=r"the store .* lies below the mount point"):
        check_source_outside(Config(source=source, mountpoint=mountpoint, state_dir=tmp_path))


@pytest.mark.parametrize("command", ["umount", "status", "sync", "refresh"])
def test_a_directory_that_is_no_mount(
    command: str, mountpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command that looks for a mount says so in the same words."""
    status, line = complaint(capsys, command, str(mountpoint))
    assert status == 1
    assert re.fullmatch(r"\S+ is not (in )?a kvfs mount", line)


def test_nothing_mounted(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a mount `sync` has nothing to do and `status` nothing to show, and neither is a failure."""
    assert complaint(capsys, "sync") == (1, "nothing is mounted")
    assert main(["status"]) == 0
    assert capsys.readouterr().out == "nothing is mounted\n"
    assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"version": 1, "mounts": [], "unmounted": []}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["unmount", "x"], "Did you mean 'umount'?"),
        (["statsu"], "Did you mean 'status'?"),
        (["rejected", "discard", "/mnt"], "name the NUMBERs"),
        (["mount"], "Missing argument 'SOURCE'"),
        (["mount", "local:"], "Missing argument 'DIR'"),
        (["mount", "--no-such", "local:", "x"], "No such option"),
        (["mount", "--timeout=soon", "local:", "x"], "'soon' is not a duration"),
        (["mount", "--timeout=0", "local:", "x"], "more than 0 seconds"),
        (["mount", "--write-back=nan", "local:", "x"], "'nan' is not a duration"),
        (["mount", "--write-back=-1", "local:", "x"], "'-1' is not a duration"),
        (["mount", "--cache-size=big", "local:", "x"], "'big' is not a size"),
        (["mount", "--umask=999", "local:", "x"], "is not an octal mask"),
        (["mount", "--separator=::", "local:", "x"], "one character or none"),
        (["mount", "--sizes=wrong", "local:", "x"], "'wrong' is not one of"),
        (["serve", "--listen=8787"], "is not HOST:PORT"),
        (["serve", "--listen=localhost:99999"], "is not HOST:PORT"),
        (["rejected", "retry", "/mnt"], "name the NUMBERs"),
    ],
)
def test_wrong_use(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong use ends with status 2 and says where to read on."""
    status, line = complaint(capsys, *words)
    assert status == Exit.USAGE
    assert message in line
    assert line.endswith("--help shows how)")


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a command there is help; the version is the package's."""
    assert main([]) == 0
    assert "umount" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"kvfs {kvfs.__version__}\n"


@pytest.mark.parametrize(
    ("exc", "line", "status"),
    [
        (UserError("a reason"), "a reason", 1),
        (JournalLockedError("held by process 7", pid=7), "held by process 7", 1),
        (ExceptionGroup("g", [ExceptionGroup("g", [KvfsError("inside")])]), "inside", 1),
        (FileNotFoundError(2, "No such file or directory", "/x"), "/x: No such file or directory", 1),
        (OSError("bare"), "bare", 1),
        (KeyboardInterrupt(), "interrupted", 130),
        (click.Abort(), "interrupted", 130),
    ],
)
def test_exceptions_become_a_line_and_a_status(exc: BaseException, line: str, status: int) -> None:
    """Exceptions meant for users are shown as they are, and a group of one as the exception inside."""
    assert describe(exc) == (line, status)


def test_an_unforeseen_exception_goes_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An unforeseen exception goes to a private file, and the user learns where it is."""

    def bug() -> None:
        raise ZeroDivisionError("a bug")

    assert guarded(bug) == 1
    file = tmp_path / "state" / "errors.log"
    assert capsys.readouterr().err == (
        f"kvfs: internal error (ZeroDivisionError): please report it with the traceback in {file}\n"
    )
    assert "in bug" in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_no_place_for_the_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a place for the traceback the user still gets one line."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("KVFS_STATE_DIR", str(tmp_path / "file"))
    assert describe(ValueError())[0].endswith("there is no place to write the traceback to")


def test_control_characters_never_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters in a message, which may quote a server or a file name, never reach the terminal."""

    def fail() -> None:
        raise UserError("bad \x1b[31mname\x07\n\udcff")

    assert guarded(fail) == 1
    assert capsys.readouterr().err == "kvfs: bad \\x1b[31mname\\x07\\n\\udcff\n"


def test_a_reader_that_leaves_is_no_error() -> None:
    """`kvfs --help | head -1` ends without an error when its reader leaves, in a real pipe."""
    command = f"{sys.executable} -m kvfs --help | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stderr == ""


def test_the_state_of_a_mount_is_private(tmp_path: Path, mountpoint: Path) -> None:
    """Every directory that a daemon will use is private before it starts."""
    config = Config(
        source=LocalSource(tmp_path / "s"), mountpoint=mountpoint, state_dir=tmp_path / "new" / "state"
    )
    prepare_state(config)
    for directory in (config.state_dir, config.journal_path.parent, config.control_path.parent):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_state_directory_that_is_a_link_is_refused(
    tmp_path: Path, mountpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A state directory that is a link is refused before anything is written through it."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    words = ["mount", f"--state-dir={tmp_path}/link", f"local:{tmp_path}/s", str(mountpoint)]
    assert "is a symbolic link" in complaint(capsys, *words)[1]
    assert not os.listdir(tmp_path / "real")


def test_a_mount_of_somebody_else_is_named_with_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A living mount whose daemon does not answer us is reported with its owner, not as dead."""
    mine = tmp_path / "mnt"
    mine.mkdir()
    table = tmp_path / "mountinfo"
    table.write_text(f"40 21 0:42 / {mine} rw - fuse.kvfs local:/x rw,user_id=12345,group_id=1000\n")
    monkeypatch.setattr("kvfs.host.mounts.MOUNTINFO", table)
    (tmp_path / "state").mkdir()
    socket_path = control_path(mine, tmp_path / "state")
    socket_path.parent.mkdir(parents=True, exist_ok=True)
    socket_path.touch()  # of a daemon that is not ours
    for command in ("sync", "umount"):
        if command == "umount" and os.geteuid() == 0:
            continue  # root may
        status, line = complaint(capsys, command, "--state-dir", str(tmp_path / "state"), str(mine))
        assert status == Exit.FAILED
        assert "was mounted by uid 12345" in line


@pytest.mark.parametrize("source", ["cloudflare:CONFIG", "cloudflare:" + "0" * 32])
def test_a_namespace_that_is_taken_for_an_account_is_told_without_a_token_too(
    source: str, mountpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cloudflare:CONFIG` names an account; the message shows how a namespace is written.

    A real account id gets no such message.
    """
    monkeypatch.delenv("CLOUDFLARE_API_TOKEN", raising=False)
    status, line = complaint(capsys, "mount", source, str(mountpoint))
    assert (status, line.startswith("no token: ")) == (Exit.FAILED, True)
    assert ("a namespace is written cloudflare:/CONFIG" in line) == (source == "cloudflare:CONFIG")


def test_a_wrong_base_url_is_told_while_the_account_is_asked_for(
    mountpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an account the first request asks for it, and its failure names what the base URL lacks."""
    monkeypatch.setenv("CLOUDFLARE_API_TOKEN", "x")
    monkeypatch.setenv("CLOUDFLARE_API_BASE_URL", "http://127.0.0.1:9")
    status, line = complaint(capsys, "mount", "cloudflare:", str(mountpoint))
    assert (status, line.startswith("the server does not answer: ")) == (Exit.FAILED, True)
    assert "CLOUDFLARE_API_BASE_URL is http://127.0.0.1:9: it should end in /client/v4" in line
