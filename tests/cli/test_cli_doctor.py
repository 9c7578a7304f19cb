"""`kvfs doctor` finds what is wrong on a machine made wrong for it."""

import os
from pathlib import Path

import pytest
from mounted.test_durability_disk import disk

from kvfs.cli import main
from kvfs.cli.doctor import credentials, kernel_timeouts, state_place, undo, unsent, updatedb
from kvfs.core.model import Key, NamespaceId
from kvfs.host.open_conflicts import Conflict, ConflictFile
from kvfs.host.sources import HISTORY, SourceRecord, write_source
from kvfs.journal.journal import Journal

NS = NamespaceId("n" * 32)


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
    """A missing exclusion of kvfs from updatedb is a finding, because updatedb would list every key every night."""
    (tmp_path / "updatedb.conf").write_text(content)
    assert levels(updatedb(tmp_path / "updatedb.conf")) == expected


def test_no_updatedb_is_nothing_to_say(tmp_path: Path) -> None:
    """A machine without updatedb, as most are, gets no finding."""
    assert levels(updatedb(tmp_path / "none")) == []


@pytest.mark.parametrize(("seconds", "expected"), [("0", []), ("10", ["warn"]), ("600", []), ("odd", [])])
def test_a_kernel_that_ends_slow_mounts(tmp_path: Path, seconds: str, expected: list[str]) -> None:
    """A kernel limit on slow requests that lies below the bound of kvfs is a finding."""
    (tmp_path / "default_request_timeout").write_text(f"{seconds}\n")
    assert levels(kernel_timeouts(tmp_path)) == expected


def test_credentials_are_looked_for_and_not_shown() -> None:
    """Credentials are reported as present or missing, and nothing else of them is shown."""
    found = list(credentials({"CLOUDFLARE_API_TOKEN": "secret", "CLOUDFLARE_ACCOUNT_ID": "a"}, None))
    assert levels(found) == ["ok", "ok"]
    assert "secret" not in "".join(finding.text for finding in found)
    assert levels(credentials({}, None)) == ["note", "note", "ok"]


def test_a_token_file_and_a_base_url_that_cannot_be_used(tmp_path: Path) -> None:
    """A token file and a base URL that would stop a mount are findings."""
    environ = {"CLOUDFLARE_API_BASE_URL": "nonsense", "CLOUDFLARE_ACCOUNT_ID": "a"}
    assert levels(credentials(environ, tmp_path / "none")) == ["fail", "fail"]


def test_a_state_directory_that_cannot_be_used(tmp_path: Path) -> None:
    """A state directory that cannot be used, a link for instance, is a finding."""
    (tmp_path / "link").symlink_to(tmp_path)
    assert levels(state_place(tmp_path / "link"))[0] == "fail"


def keep(state: Path, name: str, *, pending: int = 0, rejected: int = 0, conflicts: int = 0) -> Journal:
    """Make the journal of a source that holds so many changes and conflicts; it is still open, as in a mount."""
    path = state / "sources" / name / "journal.sqlite"
    journal = Journal.open(path, source=f"local:/{name}", now=lambda: 1_800_000_000.0)
    write_source(path, SourceRecord(f"local:/{name}", f"local:/{name}", f"/mnt/{name}"))
    for number in range(pending + rejected):
        key, value = Key(f"k{number}"), journal.stage(b"value")
        seq = journal.record_put(NS, key, value, metadata=None, expiration=None, base=None)
        if number >= pending:
            journal.reject(seq, "HTTP 400")
    for number in range(conflicts):
        ConflictFile(path).append(Conflict(NS, Key(f"k{number}"), Key(f"k{number}.kvfs-conflict"), 1.0))
    return journal


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"pending": 1}, "1 change is not at the server"),
        ({"pending": 3}, "3 changes are not at the server"),
        ({"rejected": 2}, "2 changes are not at the server (2 rejected)"),
        ({"conflicts": 1}, "1 conflict is open"),
        (
            {"pending": 2, "rejected": 1, "conflicts": 2},
            "3 changes are not at the server (1 rejected), 2 conflicts are open",
        ),
    ],
)
def test_what_unmounted_sources_hold_is_a_warning(tmp_path: Path, counts: dict[str, int], words: str) -> None:
    """Pending, rejected and conflicting changes of an unmounted source give a warning with the command that helps."""
    keep(tmp_path, "shop", **counts).close()
    keep(tmp_path, "empty").close()
    [one] = unsent(tmp_path)
    assert one.level == "warn"
    assert one.text == f"local:/shop is not mounted, and {words}: kvfs mount local:/shop /mnt/shop"


def test_what_a_mounted_source_holds_is_no_warning(tmp_path: Path) -> None:
    """Changes of a mounted source give no warning, because its daemon has the journal and sends."""
    with keep(tmp_path, "shop", pending=1):
        assert list(unsent(tmp_path)) == []
    assert levels(unsent(tmp_path)) == ["warn"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts file systems of a given size")
def test_a_disk_that_is_nearly_full_is_a_warning(tmp_path: Path) -> None:
    """Less than a tenth of free disk gives a warning, because the journal needs room, and no history is kept then."""
    with disk(tmp_path / "state", "8m") as small:
        shelf = small / "sources" / "shop" / HISTORY
        shelf.mkdir(parents=True)
        (shelf / "1").write_bytes(bytes(1024**2))
        [kept] = undo(small)
        assert (kept.level, kept.text.split(" of ")[0]) == ("ok", "1.0 MiB")
        (small / "ballast").write_bytes(bytes(6 * 1024**2 + 512 * 1024))
        kept, full = undo(small)
        assert full.level == "warn"
        assert f"is free in {small}: nothing more is kept for kvfs restore" in full.text
        assert levels(state_place(small)) == ["ok", "warn"]


@pytest.mark.fuse
def test_this_machine_is_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The doctor finds nothing that stops a mount on a machine where the mounted tests run."""
    assert main(["doctor", f"--state-dir={tmp_path}/state"]) == 0
    assert "FAIL" not in capsys.readouterr().out
