"""The main job: a whole shell session over a real mount, one script for both sources."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.mounted import QUICK, Api, Mounted, mounted
from support.serving import TOKEN, Served, served_by_process

pytestmark = pytest.mark.fuse

SCRIPT = """
mkdir notes
cd notes
echo 'hello world' > greeting
test "$(cat greeting)" = 'hello world'
cp "$BINARY" big.bin
cmp "$BINARY" big.bin
cp "$TEXT" text.txt
mkdir -p deep/er
echo needle > deep/er/found.txt
stat -c '%s %n' greeting big.bin
ls -l
setfattr -n user.author -v ada greeting
setfattr -n user.version -v 3 greeting
getfattr --only-values -n user.author greeting; echo
touch -d '+1 hour' greeting
mv text.txt renamed.txt
echo gone > doomed
rm doomed
grep -r needle .
find . -type f | sort
echo more >> greeting
"""


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Make a binary of 5 MiB and a text."""
    binary, text = tmp_path / "binary", tmp_path / "text"
    binary.write_bytes(os.urandom(5 * 1024 * 1024))
    text.write_text("zeile\n" * 1000)
    return {"BINARY": binary, "TEXT": text}


TEMPERAMENT = "cloudflare,stale=500ms,pair_cost=2ms,seed=2"
"""An account's own behaviour, with less patience."""


@pytest.fixture(params=["local", "cloudflare", "temperament"])
def session(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Mounted, "Reader"]]:
    """Yield a mount, and a way to read the same data back without it."""
    with ExitStack() as stack:
        store = tmp_path / "store"
        store.mkdir()
        if request.param == "local":
            source = f"local:{store}/store.sqlite"
            mount = stack.enter_context(mounted(tmp_path, source, *QUICK))
            yield mount, Reader(store, None)
        else:
            faults = TEMPERAMENT if request.param == "temperament" else None
            served = stack.enter_context(served_by_process(store, faults=faults))
            mount = stack.enter_context(mounted(tmp_path, "cloudflare:", *QUICK, served=served))
            yield mount, Reader(store, served)


class Reader:
    """The REST API over the same store: the running server's, or one started beside the mount."""

    def __init__(self, store: Path, served: Served | None) -> None:
        self._store = store
        self._served = served
        self._stack = ExitStack()

    def __enter__(self) -> Api:
        served = self._served
        if served is None:  # `kvfs serve` and a mount share one store file; its mount is account "local"
            served = self._stack.enter_context(served_by_process(self._store))
            served = Served(served.url, TOKEN, "local")
        return self._stack.enter_context(Api(served, direct=True))

    def __exit__(self, *error: object) -> None:
        self._stack.close()


def test_a_shell_session_and_the_api_agree(session: tuple[Mounted, Reader], files: dict[str, Path]) -> None:
    """The API shows what ordinary tools did through the mount, and the mount what was done through the API."""
    mount, reader = session
    exports = "".join(f"export {name}={path}\n" for name, path in files.items())
    before = time.time()
    output = mount.shell(exports + SCRIPT)
    assert "12 greeting" in output
    assert f"{5 * 1024 * 1024} big.bin" in output
    assert "ada" in output
    assert "./deep/er/found.txt:needle" in output
    assert "./renamed.txt" in output
    mount.sync()
    with reader as api:
        namespace = api.namespace("notes")
        keys = api.keys(namespace)
        assert set(keys) == {"greeting", "big.bin", "renamed.txt", "deep/er/found.txt"}
        assert api.get(namespace, "greeting") == b"hello world\nmore\n"
        assert api.get(namespace, "big.bin") == files["BINARY"].read_bytes()
        assert api.get(namespace, "renamed.txt") == files["TEXT"].read_bytes()
        assert keys["greeting"]["metadata"] == {"author": "ada", "version": 3}
        assert keys["greeting"]["expiration"] == pytest.approx(before + 3600, abs=30)
        assert "expiration" not in keys["big.bin"]

        api.put(namespace, "greeting", b"changed elsewhere")
        api.put(namespace, "new/key", b"added elsewhere")
        api.delete(namespace, "big.bin")
        _wait_for(lambda: (mount.path / "notes/greeting").read_bytes() == b"changed elsewhere")
        _wait_for(lambda: (mount.path / "notes/new/key").exists())
        assert (mount.path / "notes/new/key").read_bytes() == b"added elsewhere"
        _wait_for(lambda: not (mount.path / "notes/big.bin").exists())
        assert sorted(os.listdir(mount.path / "notes")) == ["deep", "greeting", "new", "renamed.txt"]
        size = (mount.path / "notes/greeting").stat().st_size
        assert size == len(b"changed elsewhere")


def test_namespaces_come_go_and_change_names(session: tuple[Mounted, Reader]) -> None:
    """mkdir, mv and rmdir at the root create, rename and delete namespaces; only an empty one goes."""
    mount, reader = session
    mount.shell("mkdir first; mv first second; mkdir third; echo x > second/key")
    done = subprocess.run(["rmdir", mount.path / "second"], capture_output=True, text=True, check=False)
    assert "not empty" in done.stderr
    done = subprocess.run(["mkdir", mount.path / "third"], capture_output=True, text=True, check=False)
    assert "File exists" in done.stderr
    with reader as api:
        assert api.titles() == {"second", "third"}
        mount.shell("rm second/key; rmdir second third")
        assert api.titles() == set()


def _wait_for(condition: "object", seconds: float = 15.0) -> None:
    """Poll for what the mount shows after its cache time: real time has to pass for a real kernel."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():  # type: ignore[operator]
            return
        time.sleep(0.1)
    pytest.fail("it did not show within the cache time")
