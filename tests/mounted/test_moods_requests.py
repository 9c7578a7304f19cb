"""Requests and messages of a mount: odd keys, its pace, its account, and never its token."""

import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.echoing import Echo, echoing
from support.mounted import KVFS, QUICK, Api, Mounted, environment, mounted
from support.serving import Served

from kvfs.store import codes

pytestmark = pytest.mark.fuse

OPTIONS = (*QUICK, "--timeout=20", "--write-back=0.2")


@pytest.fixture
def mount(tmp_path: Path, server: Served) -> Iterator[Mounted]:
    with mounted(tmp_path, "cloudflare:", *OPTIONS, served=server) as mount:
        yield mount


@pytest.fixture
def echo(server: Served) -> Iterator[Echo]:
    with echoing(server) as echo:
        yield echo


def test_odd_names_go_in_bodies_and_not_in_urls(mount: Mounted, api: Api) -> None:
    """Commands and the mount use odd keys in bodies, because the server does not find them in URLs."""
    ns = mount.path / "ns"
    ns.mkdir()
    api.set_faults({"fault": "url_keys"})
    names = ["a^b", "a...b", "a\x1fb", "a\nb"]
    for name in names:
        done = mount.kvfs("put", f"cloudflare:/ns/{name}", name, check=False)
        assert done.returncode == 0, done.stderr
        assert mount.kvfs("cat", f"cloudflare:/ns/{name}").stdout == name
    mount.kvfs("refresh", str(mount.path))
    assert [(ns / name).read_text() for name in names] == names
    for name in names[:2]:
        (ns / name).unlink()
    mount.sync()
    for name in names[2:]:
        mount.kvfs("rm", "--yes", f"cloudflare:/ns/{name}")
    assert api.keys(api.namespace("ns")) == {}


def test_what_others_spend_counts_against_the_budget(mount: Mounted, api: Api) -> None:
    """The headers of an answer say how many requests the account has left, so those of others count."""
    ns = mount.path / "ns"
    ns.mkdir()
    api.set_faults({"fault": "ratelimit", "count": 400})
    for _ in range(50):
        api.titles()  # somebody else
    (ns / "k").write_text("v")
    mount.sync()
    assert 300 <= mount.status()["budget"]["left"] <= 349


def test_a_429_without_a_time_to_wait_costs_five_seconds(mount: Mounted, api: Api) -> None:
    """A 429 without a time costs five seconds and not five minutes, and its call waits and succeeds."""
    ns = mount.path / "ns"
    ns.mkdir()
    (ns / "k").write_text("v")
    mount.sync()
    mount.kvfs("refresh", str(mount.path))
    api.set_faults({"fault": "status", "status": 429, "times": 1})
    begun = time.monotonic()
    assert (ns / "k").read_text() == "v"
    assert 4.5 < time.monotonic() - begun < 15


def test_the_only_account_of_a_token_is_mounted(tmp_path: Path, server: Served) -> None:
    """Without an account in the source the only account of the token is mounted."""
    env = environment(tmp_path, server)
    del env["CLOUDFLARE_ACCOUNT_ID"]
    path = tmp_path / "mnt"
    path.mkdir()
    subprocess.run([*KVFS, "mount", *OPTIONS, "cloudflare:", str(path)], env=env, check=True, cwd="/")
    try:
        (path / "ns").mkdir()
        with Api(replace(server, account="local")) as api:
            assert api.titles() == {"ns"}
    finally:
        subprocess.run([*KVFS, "umount", str(path)], env=env, check=True)


def test_a_text_that_echoes_the_token_is_kept_nowhere(tmp_path: Path, server: Served, echo: Echo) -> None:
    """A text that echoes the token is kept neither with a rejected change, nor in a log, nor in a command's output."""
    said = ""
    with mounted(tmp_path, "cloudflare:", *OPTIONS, served=echo.served) as mount:
        ns = mount.path / "ns"
        ns.mkdir()
        (ns / "good").write_text("v")
        mount.sync()

        echo.refuse = lambda method, path: (400, codes.BAD_EXPIRATION) if method == "PUT" else None
        (ns / "bad").write_text("v")
        said += "".join(_all(mount.kvfs("sync", "--timeout=10", str(mount.path), check=False)))
        (kept,) = mount.status()["rejected"]["items"]
        assert "refused: Bearer …" in kept["error"]

        while mount.status()["settling"][
            "count"
        ]:  # until then this mount shows what it wrote, and asks nobody
            time.sleep(0.05)
        echo.refuse = lambda method, path: (403, codes.UNKNOWN_KEY)
        mount.kvfs("refresh", str(mount.path))
        with pytest.raises(OSError, match="Permission denied"):
            (ns / "good").read_bytes()
        for words in (["status"], ["status", "--json"], ["rejected"]):
            said += "".join(_all(mount.kvfs(*words, str(mount.path), check=False)))
        (tmp_path / "other").mkdir()
        said += "".join(_all(mount.kvfs("mount", "cloudflare:", str(tmp_path / "other"), check=False)))
        said += "".join(file.read_text() for file in (mount.path / ".kvfs").iterdir() if file.is_file())
        echo.refuse = lambda method, path: None
        mount.kvfs("rejected", "discard", "--all", "--yes", str(mount.path))
    assert "refused: Bearer …" in said
    files = [file for file in tmp_path.rglob("*") if file.is_file() and file.name != "store.sqlite"]
    assert mount.log in files
    assert not [file for file in files if server.token.encode() in file.read_bytes()]
    assert server.token not in said


def _all(done: "subprocess.CompletedProcess[str]") -> tuple[str, str]:
    return done.stdout, done.stderr
