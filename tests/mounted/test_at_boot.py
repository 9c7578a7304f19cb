"""A mount as mount(8), fstab and systemd make it: without a home, with their words, with progress notices."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.mounted import KVFS, REPOSITORY, environment, mounted

pytestmark = pytest.mark.fuse

# In a mount namespace of its own, so that nothing is installed on the machine that runs the test: the helper is the
# only file of /sbin, and /var/lib is empty.
PRIVATE = """
set -eu
mount --make-rprivate /
mount --bind {place}/sbin "$(readlink -f /sbin)"
mount --bind {place}/lib /var/lib
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The helper as `kvfs install` writes it, and the directories that take part."""
    for name in ("sbin", "lib", "mnt"):
        (tmp_path / name).mkdir()
    subprocess.run([*KVFS, "install", "--root", str(tmp_path / "root")], check=True, capture_output=True)
    shutil.copy(tmp_path / "root" / "sbin" / "mount.kvfs", tmp_path / "sbin")
    return tmp_path


def in_private(place: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script as root at boot, with an empty environment."""
    return subprocess.run(
        ["unshare", "--mount", "/bin/bash", "-c", PRIVATE.format(place=place) + script],
        env={"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd="/",
    )


WAIT = """
umount {place}/mnt
for _ in $(seq 200); do [ -z "$(ls /var/lib/kvfs/mounts/*.json 2>/dev/null)" ] && break; sleep 0.1; done
ls /var/lib/kvfs/mounts/*.json 2>/dev/null && exit 9
true
"""


def test_mount_t_kvfs_works_without_home_and_path(place: Path) -> None:
    """`mount -t kvfs` keeps its state in /var/lib/kvfs, and closed files are there at the next mount."""
    script = """
    /bin/mount -t kvfs local:/var/lib/store.sqlite {place}/mnt \\
        -o 'cache_ttl=5,history="1d,200M",write_back=0,_netdev,nofail,noexec'
    cat {place}/mnt/.kvfs/status
    findmnt -no SOURCE,FSTYPE,OPTIONS {place}/mnt
    mkdir {place}/mnt/ns; echo hello > {place}/mnt/ns/a
    ls -d /var/lib/kvfs/sources/*
    """
    again = """
    /bin/mount -t kvfs -r local:/var/lib/store.sqlite {place}/mnt
    cat {place}/mnt/ns/a; touch {place}/mnt/ns/b || true
    """
    done = in_private(place, (script + WAIT + again + WAIT).format(place=place))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "local:/var/lib/store.sqlite fuse.kvfs" in done.stdout
    assert "noexec" in done.stdout
    assert '"bounds": "1d,200M"' in done.stdout, "a value with a comma, in double quotes"
    assert "hello" in done.stdout
    assert "Read-only file system" in done.stderr


def test_a_line_of_fstab_is_a_mount(place: Path) -> None:
    """A line of fstab is a mount, with words for systemd in it that are not those of kvfs."""
    (place / "fstab").write_text(
        f"local:/var/lib/store.sqlite {place}/mnt kvfs "
        'write_back=0,history="2d,100M",_netdev,nofail,x-systemd.automount 0 0\n'
    )
    script = "/bin/mount --fstab {place}/fstab {place}/mnt\nmkdir {place}/mnt/ns\nls {place}/mnt\n"
    script += "cat {place}/mnt/.kvfs/status\n"
    done = in_private(place, (script + WAIT).format(place=place))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ns" in done.stdout.split()
    assert '"bounds": "2d,100M"' in done.stdout


def test_the_command_of_the_unit_needs_no_environment(place: Path) -> None:
    """Without HOME and PATH, state and the store of `local:` are in /var/lib/kvfs, for root alone."""
    unit = (place / "root/etc/systemd/system/kvfs@.service").read_text()
    [command] = re.findall(r"(?m)^ExecStart=(.*)$", unit)
    (place / "config.toml").write_text(
        f'[profile.shop]\nsource = "local:"\ndirectory = "{place}/mnt"\nwrite-back = 0\n'
    )
    script = """
    env -i KVFS_CONFIG={place}/config.toml {command} &
    daemon=$!
    trap 'kill -9 $daemon 2>/dev/null || true' EXIT
    for _ in $(seq 200); do mountpoint -q {place}/mnt && break; sleep 0.1; done
    mkdir {place}/mnt/ns; echo hello > {place}/mnt/ns/a
    tr '\\0' '\\n' < /proc/$daemon/environ
    stat -c '%a %n' /var/lib/kvfs /var/lib/kvfs/sources/*/journal.sqlite
    ls /var/lib/kvfs
    kill -TERM $daemon; wait $daemon
    ls -A {place}/mnt
    """
    done = in_private(place, script.format(place=place, command=command.replace("%i", "shop")))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("local:/var/lib/kvfs/store.sqlite is mounted on ")
    assert lines[1] == f"KVFS_CONFIG={place}/config.toml", "all of its environment"
    assert lines[2] == "700 /var/lib/kvfs"
    assert re.fullmatch(r"600 /var/lib/kvfs/sources/\w+/journal.sqlite", lines[3])
    assert {"sources", "mounts", "store.sqlite"} <= set(lines[4:])


def test_mount_refuses_words_that_it_does_not_know(place: Path) -> None:
    """The line names the option, and nothing is mounted."""
    done = in_private(place, f"/bin/mount -t kvfs local:/var/lib/s {place}/mnt -o cache_tl=5 && exit 7; true")
    assert done.returncode == 0
    assert "-o cache_tl: no such option; did you mean cache-ttl?" in done.stderr


def test_mount_t_fuse_kvfs_works_too(tmp_path: Path) -> None:
    """mount.fuse, which calls `kvfs SOURCE DIR -o …` with words of its own, can mount."""
    env = environment(tmp_path, None)
    (tmp_path / "mnt").mkdir()
    words = [f"local:{tmp_path}/store.sqlite", str(tmp_path / "mnt"), "-o", "rw,cache_ttl=3"]
    subprocess.run([*KVFS, *words], env=env, check=True, capture_output=True, timeout=60)
    try:
        assert os.path.ismount(tmp_path / "mnt")
    finally:
        subprocess.run([*KVFS, "umount", str(tmp_path / "mnt")], env=env, check=True, timeout=60)


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Yield the socket of a service manager."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        yield listener


def told(listener: socket.socket, wanted: str) -> str:
    """Return the first message that holds `wanted`."""
    while True:
        message = listener.recv(4096).decode()
        if wanted in message:
            return message


def test_systemd_is_told_how_it_goes(
    tmp_path: Path, words: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd gets READY when the mount is usable, the pending count, signs of life, and more time for the drain."""
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    with mounted(tmp_path, f"local:{tmp_path}/store.sqlite", "--write-back=3600") as mount:
        assert f"STATUS=mounted: local:{tmp_path}/store.sqlite on {mount.path}" in told(words, "READY=1")
        (mount.path / "ns").mkdir()
        (mount.path / "ns" / "a").write_bytes(b"1")
        assert "1 change pending" in told(words, "1 change pending")
        assert "WATCHDOG=1" in told(words, "WATCHDOG=1")
        began = time.monotonic()
        assert mount.terminate() == 0
        stopping = told(words, "STOPPING=1")
        assert "EXTEND_TIMEOUT_USEC=30000000" in stopping
        assert "STATUS=ending:" in stopping
        assert time.monotonic() - began < 30


def test_the_units_pass_the_verifier_of_systemd(place: Path, tmp_path: Path) -> None:
    """The units for the system and for a user pass the verifier, so systemd knows every option in them."""
    user = environment(tmp_path, None) | {
        "HOME": str(tmp_path / "home"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
    }
    subprocess.run([*KVFS, "install", "--user", "--root", str(tmp_path / "root")], env=user, check=True)
    units = sorted((tmp_path / "root").rglob("kvfs*@.*"))
    assert len(units) == 6
    for unit in units:
        scope = ["--user"] if "user" in unit.parts else []
        checked = subprocess.run(
            ["systemd-analyze", *scope, "--man=no", "verify", str(unit)],
            capture_output=True,
            text=True,
            check=False,
        )
        lines = [line for line in checked.stderr.splitlines() if re.search("kvfs(-backup)?@", line)]
        assert lines == [], checked.stderr


def test_install_names_each_file_and_leaves_those_of_others(tmp_path: Path) -> None:
    """install names each file.

    --dry-run writes nothing, --remove takes away its own files, and a strange file stays.
    """
    root = tmp_path / "root"

    def install(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*KVFS, "install", "--root", str(root), *more], capture_output=True, text=True, check=False
        )

    dry = install("--dry-run")
    assert not root.exists()
    written = install()
    assert written.returncode == 0
    files = sorted(str(file) for file in root.rglob("*") if file.is_file())
    assert sorted(line.removeprefix("wrote ") for line in written.stdout.splitlines()) == files
    assert dry.stdout.replace("would write", "wrote") == written.stdout
    helper = root / "sbin" / "mount.kvfs"
    assert helper.stat().st_mode & 0o777 == 0o755
    helper.write_text("somebody else's")
    assert install().returncode == 1
    assert install("--remove").returncode == 1
    assert [file for file in root.rglob("*") if file.is_file()] == [helper]


def test_the_man_pages_and_the_help_say_the_same(tmp_path: Path) -> None:
    """Each option of `kvfs mount --help` is in the man page."""
    root = tmp_path / "root"
    subprocess.run([*KVFS, "install", "--root", str(root)], check=True, capture_output=True)
    page = (root / "usr/local/share/man/man1/kvfs-mount.1").read_text().replace("\\-", "-")
    text = subprocess.run([*KVFS, "mount", "--help"], capture_output=True, text=True, check=True).stdout
    options = {word.strip(",.") for word in text.split() if word.startswith("--") and len(word) > 4} - {
        "--help"
    }
    assert options
    assert [option for option in sorted(options) if option not in page] == []


def test_a_log_for_machines_is_one_object_a_line(tmp_path: Path) -> None:
    """`--log-format json` writes one object a line, for journald and others."""
    command = [
        sys.executable,
        "-c",
        "import json,sys\nfor line in sys.stdin: print(json.loads(line)['message'])",
    ]
    with mounted(tmp_path, f"local:{tmp_path}/store.sqlite", "--log-format=json") as mount:
        pass
    lines = subprocess.run(
        command, input=mount.log.read_text(), capture_output=True, text=True, check=True
    ).stdout
    assert "is mounted on" in lines
