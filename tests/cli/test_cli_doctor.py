"""`kvfs doctor` finds what is wrong on a machine made wrong for it."""

from pathlib import Path

import pytest

from kvfs.cli import main
from kvfs.cli.doctor import credentials, kernel_timeouts, state, updatedb


def levels(findings: object) -> list[str]:
    return [finding.level for finding in findings]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('PRUNEFS = "NFS nfs fuse.kvfs"\n', ["ok"]),
        ('PRUNE_BIND_MOUNTS="yes"\nPRUNEFS="nfs FUSE.KVFS"', ["ok"]),
        ('PRUNEFS="nfs fuse.sshfs"', ["warn"]),
        ('# PRUNEFS="fuse.kvfs"', ["warn"]),
        ("", ["warn"]),
    ],
)
def test_updatedb_should_leave_mounts_out(tmp_path: Path, content: str, expected: list[str]) -> None:
    """It would list every key, every night."""
    (tmp_path / "updatedb.conf").write_text(content)
    assert levels(updatedb(tmp_path / "updatedb.conf")) == expected


def test_no_updatedb_is_nothing_to_say(tmp_path: Path) -> None:
    """Most machines have none."""
    assert levels(updatedb(tmp_path / "none")) == []


@pytest.mark.parametrize(("seconds", "expected"), [("0", []), ("10", ["warn"]), ("600", []), ("odd", [])])
def test_a_kernel_that_ends_slow_mounts(tmp_path: Path, seconds: str, expected: list[str]) -> None:
    """Its bound must lie above ours."""
    (tmp_path / "default_request_timeout").write_text(f"{seconds}\n")
    assert levels(kernel_timeouts(tmp_path)) == expected


def test_credentials_are_looked_for_and_not_shown() -> None:
    """Present or missing is all that is said."""
    found = list(credentials({"CLOUDFLARE_API_TOKEN": "secret", "CLOUDFLARE_ACCOUNT_ID": "a"}, None))
    assert levels(found) == ["ok", "ok"]
    assert "secret" not in "".join(finding.text for finding in found)
    assert levels(credentials({}, None)) == ["note", "note", "ok"]


def test_a_token_file_and_a_base_url_that_cannot_be_used(tmp_path: Path) -> None:
    """They would stop a mount."""
    environ = {"CLOUDFLARE_API_BASE_URL": "nonsense", "CLOUDFLARE_ACCOUNT_ID": "a"}
    assert levels(credentials(environ, tmp_path / "none")) == ["fail", "fail"]


def test_a_state_directory_that_cannot_be_used(tmp_path: Path) -> None:
    """A link, for instance."""
    (tmp_path / "link").symlink_to(tmp_path)
    assert levels(state(tmp_path / "link"))[0] == "fail"


@pytest.mark.fuse
def test_this_machine_is_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the mounted tests run, doctor finds nothing that stops a mount."""
    assert main(["doctor", f"--state-dir={tmp_path}/state"]) == 0
    assert "FAIL" not in capsys.readouterr().out
