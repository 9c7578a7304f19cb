"""Mounts whose token is refused, for a moment or for good, comes late, or must be seen by nobody."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support.moods import OPTIONS, filled
from support.mounted import KVFS, Api, environment, mounted
from support.serving import Served

pytestmark = pytest.mark.fuse


def test_a_refusal_that_passes_is_not_noticed(tmp_path: Path, server: Served, api: Api) -> None:
    """A refusal that passes is not noticed at mount, by a read, a sync and an umount."""
    rule: dict[str, object] = {"fault": "denied", "times": 1}
    api.set_faults(rule)
    with mounted(tmp_path, "cloudflare:", *OPTIONS, served=server) as mount:
        ns = filled(mount, api, 1)
        api.set_faults(rule)
        assert (ns / "k00").read_text() == "0"
        (ns / "new").write_text("new")
        api.set_faults(rule | {"method": "PUT"})
        mount.sync()
        (ns / "newer").write_text("newer")
        api.set_faults(rule | {"method": "PUT"})
        mount.umount()
    assert sorted(api.keys(api.namespace("ns"))) == ["k00", "new", "newer"]


def test_a_refused_token_is_not_hammered_and_mended_by_its_file(
    tmp_path: Path, server: Served, api: Api
) -> None:
    """With a refused token a walk makes a handful of requests, and the right token in its file is used at once."""
    file = tmp_path / "token"
    file.write_text(server.token)
    file.chmod(0o600)
    with mounted(tmp_path, "cloudflare:", *OPTIONS, f"--token-file={file}", served=server) as mount:
        ns = filled(mount, api, 30)
        assert len(os.listdir(ns)) == 30
        file.write_text("another-token-than-before")
        api.set_faults({"fault": "code", "code": 9109})
        before = api.requests()
        for number in range(30):
            with pytest.raises(OSError, match="Permission denied"):
                (ns / f"k{number:02}").read_text()
        assert sum(api.requests().values()) - sum(before.values()) <= 6
        api.set_faults()
        file.write_text(server.token)
        assert (ns / "k03").read_text() == "3"


@pytest.mark.parametrize(
    ("code", "said"), [(6003, "Authorization"), (9106, "Authentication failed"), (9109, "access token")]
)
def test_a_lasting_refusal_is_named_at_the_mount(
    tmp_path: Path, server: Served, api: Api, code: int, said: str
) -> None:
    """A lasting refusal is named at the mount, soon, also when it comes as HTTP 400."""
    api.set_faults({"fault": "code", "code": code})
    (tmp_path / "mnt").mkdir()
    begun = time.monotonic()
    done = subprocess.run(
        [*KVFS, "mount", "cloudflare:", str(tmp_path / "mnt")],
        env=environment(tmp_path, server),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "the token is not accepted" in done.stderr
    assert said in done.stderr
    assert time.monotonic() - begun < 15


def test_the_token_is_nowhere_in_the_daemon(tmp_path: Path, server: Served) -> None:
    """A token from a command is in no argument and no environment of the daemon, and nowhere in its log."""
    env = environment(tmp_path, server)
    (tmp_path / "mnt").mkdir()
    secret = tmp_path / "secret"
    secret.write_text(server.token)
    env["KVFS_TOKEN_COMMAND"] = f"cat {secret}"
    try:
        subprocess.run(
            [*KVFS, "mount", *OPTIONS, "cloudflare:", str(tmp_path / "mnt")], env=env, check=True, cwd="/"
        )
        found = subprocess.run(
            [*KVFS, "status", "--json", str(tmp_path / "mnt")],
            env=env,
            capture_output=True,
            text=True,
            check=True,
        )
        pid = json.loads(found.stdout)["mounts"][0]["pid"]
        shown = Path(f"/proc/{pid}/environ").read_bytes() + Path(f"/proc/{pid}/cmdline").read_bytes()
        assert server.token.encode() not in shown
        assert server.token not in found.stdout
    finally:
        subprocess.run([*KVFS, "umount", str(tmp_path / "mnt")], env=env, check=True)
    logs = [file for file in (tmp_path / "state").rglob("*") if file.is_file()]
    assert logs
    assert not [file for file in logs if server.token.encode() in file.read_bytes()]


def test_a_token_command_that_hangs_holds_up_no_end(tmp_path: Path, server: Served, api: Api) -> None:
    """While a token command hangs, reads are answered within their bound and umount ends at once."""
    script, asked = tmp_path / "token", tmp_path / "asked"
    script.write_text(f"#!/bin/sh\n[ ! -e {asked} ] || sleep 1000\ntouch {asked}\necho {server.token}\n")
    script.chmod(0o700)
    options = [*OPTIONS[:2], "--timeout=2", f"--token-command={script}"]
    with mounted(tmp_path, "cloudflare:", *options, served=server) as mount:
        ns = filled(mount, api, 3)
        api.set_faults({"fault": "code", "code": 9109})
        time.sleep(1.1)
        begun = time.monotonic()
        with pytest.raises(OSError, match="k01"):
            (ns / "k01").read_text()
        assert time.monotonic() - begun < 8
        begun = time.monotonic()
        mount.umount()
        assert time.monotonic() - begun < 8


def test_ctrl_c_ends_a_mount_that_waits_for_its_token(tmp_path: Path, server: Served) -> None:
    """Ctrl-C ends a mount that waits for its token at once, together with the command."""
    (tmp_path / "mnt").mkdir()
    words = [*KVFS, "mount", "--token-command=sleep 1000", "cloudflare:", str(tmp_path / "mnt")]
    with subprocess.Popen(words, env=environment(tmp_path, server), start_new_session=True) as process:
        time.sleep(1.5)
        begun = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(20) == 130
        assert time.monotonic() - begun < 8
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
