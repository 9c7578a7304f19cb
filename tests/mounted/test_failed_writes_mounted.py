"""Writes that fail, and writes through a handle with O_APPEND, over a real mount."""

import errno
import fcntl
import mmap
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from support.mounted import Api, Mounted, mounted
from support.serving import Served
from support.standing import Standing, errno_of, run, wait_for

OPTIONS = ("--settle=1", "--cache-ttl=1")
MIB = 1024 * 1024


@pytest.mark.parametrize("cached", [True, False])
def test_a_copy_that_is_too_large_leaves_the_good_value(world: Standing, here: Path, cached: bool) -> None:
    """`cp` of too large a file fails, the old value stays here and at the server, and a new name is not made."""
    namespace = world.api.namespace(here.name)
    world.api.put(namespace, "page", b"the good value\n")
    world.mount.kvfs("refresh", str(here))
    if cached:
        assert (here / "page").read_bytes() == b"the good value\n"
    big = world.local() / "big"
    big.write_bytes(os.urandom(MIB) * 26)
    for name in ("page", "new"):
        done = subprocess.run(["cp", big, here / name], capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert "File too large" in done.stderr
    world.mount.sync()
    assert world.api.get(namespace, "page") == b"the good value\n"
    assert (here / "page").read_bytes() == b"the good value\n"
    assert (here / "page").stat().st_size == 15
    assert os.listdir(here) == ["page"]
    assert world.api.get(namespace, "new") is None


def test_close_says_the_error_again(here: Path) -> None:
    """After a failed write every later call and the close repeat the error, and then the file can be written anew."""
    path = here / "f"
    path.write_bytes(b"good")
    fd = os.open(path, os.O_RDWR)
    assert errno_of(os.pwrite, fd, b"xx", 25 * MIB) == "EFBIG"
    assert errno_of(os.fsync, fd) == "EFBIG"
    assert errno_of(os.ftruncate, fd, 0) == "EFBIG"
    assert errno_of(os.close, os.dup(fd)) == "EFBIG"
    with pytest.raises(OSError, match="too large") as caught:
        os.close(fd)
    assert caught.value.errno == errno.EFBIG
    assert path.read_bytes() == b"good"
    path.write_bytes(b"better")
    assert path.read_bytes() == b"better"


def test_a_change_of_a_value_that_cannot_be_read_changes_nothing(tmp_path: Path, server: Served) -> None:
    """A change of a value that the server fails to read gives EIO and changes nothing.

    When the server is well it succeeds.
    """
    with Api(server) as api:
        namespace = api.result("POST", "", json={"title": "ns"})["id"]
        api.put(namespace, "page", b"the good value")
        with mounted(tmp_path, "cloudflare:", "--timeout=2", "--settle=1", served=server) as mount:
            _change_unreadable(mount, api, namespace)


def test_a_close_that_failed_leaves_nothing_in_the_pages_of_the_kernel(
    tmp_path: Path, server: Served
) -> None:
    """Neither size nor mtime of the file changed: who has it open reads the good value all the same."""
    options = ("--write-back=600", "--max-pending=4K")
    with mounted(tmp_path, "cloudflare:", *options, served=server) as mount:
        (mount.path / "ns").mkdir()
        path = mount.path / "ns/page"
        path.write_bytes(b"good")
        mount.sync()
        (mount.path / "ns/large").write_bytes(b"x" * 4096)  # there is no room for more
        with path.open("rb", buffering=0) as reader:
            assert reader.read() == b"good"
            writer = os.open(path, os.O_RDWR)
            os.pwrite(writer, b"evil", 0)  # onto the page that the reader has made the kernel keep
            assert errno_of(os.close, writer) == "ENOSPC"
            assert os.pread(reader.fileno(), 9, 0) == b"good"
        (mount.path / "ns/large").unlink()
        assert path.read_bytes() == b"good"


def _truncates(path: Path, size: int) -> bool:
    """Return True if the server counts as being back: for a while after a failure calls fail at once."""
    with suppress(OSError):
        os.truncate(path, size)
        return True
    return False


def _change_unreadable(mount: Mounted, api: Api, namespace: str) -> None:
    path = mount.path / "ns/page"
    api.set_faults({"fault": "bad_key", "key": "page"})
    assert errno_of(os.truncate, path, 3) == "EIO"
    assert errno_of(os.open, path, os.O_RDWR) == "EIO"
    assert errno_of(os.open, path, os.O_WRONLY | os.O_APPEND) == "EIO"
    assert errno_of(os.setxattr, path, "user.k", b"v") == "EIO"
    assert errno_of(os.rename, path, path.parent / "moved") == "EIO"
    api.set_faults()
    assert mount.status()["pending"]["count"] == 0
    assert api.get(namespace, "page") == b"the good value"
    wait_for(lambda: _truncates(path, 8))
    mount.sync()
    assert api.get(namespace, "page") == b"the good"


def test_a_shared_mapping_of_an_append_handle_is_written_in_place(world: Standing, here: Path) -> None:
    """A write of 120 bytes through a mapping of an append handle leaves 120 bytes, here and at the server."""
    path = here / "mapped"
    path.write_bytes(b"hello world\n" * 10)
    with path.open("a+b") as file:
        with mmap.mmap(file.fileno(), 0) as mapping:
            mapping[0:5] = b"HELLO"
            mapping.flush()
        file.write(b"more\n")
    expected = b"HELLO world\n" + b"hello world\n" * 9 + b"more\n"
    assert path.read_bytes() == expected
    world.mount.sync()
    assert world.api.get(world.api.namespace(here.name), "mapped") == expected


def test_a_handle_whose_o_append_was_taken_away_writes_where_it_says(here: Path) -> None:
    """Without its O_APPEND a handle writes at the given offset, and with it again at the end."""
    path = here / "flags"
    path.write_bytes(b"0123456789")
    fd = os.open(path, os.O_RDWR | os.O_APPEND)
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags & ~os.O_APPEND)
    os.pwrite(fd, b"AB", 0)
    os.pwrite(fd, b"!", 12)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags)
    os.write(fd, b"end")
    os.close(fd)
    assert path.read_bytes() == b"AB23456789\0\0!end"


def test_appends_of_several_processes_are_whole(here: Path) -> None:
    """Every line of four processes that append is there, and none is overwritten."""
    script = "import os, sys\nfd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)\n"
    script += "for n in range(300): os.write(fd, b'%s %d\\n' % (sys.argv[2].encode(), n))\nos.close(fd)\n"
    path = here / "log"
    writers = [subprocess.Popen([sys.executable, "-c", script, path, letter]) for letter in "abcd"]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    lines = path.read_text().splitlines()
    assert sorted(lines) == sorted(f"{letter} {n}" for letter in "abcd" for n in range(300))


def test_an_append_to_a_file_of_unknown_size_comes_at_its_end(tmp_path: Path, world: Standing) -> None:
    """An append to a file of unknown size comes at its end, although with --sizes=known the kernel was told 0."""
    title = world.namespace().path.name
    world.api.put(world.api.namespace(title), "f", b"there")
    with mounted(tmp_path, f"cloudflare:/{title}", "--sizes=known", served=world.served) as mount:
        run("sh", "-c", "printf ! >> f; printf + >> f", cwd=mount.path)
        assert (mount.path / "f").read_bytes() == b"there!+"


# names that are replaced at full speed

_REPLACE = """
import os, sys
number = 0
print("at work", flush=True)
while True:
    number += 1
    with open("new", "w") as file:
        file.write("version %d" % number * 20)
    os.setxattr("new", "user.n", b"%d" % number)
    os.rename("new", "name")
"""


def test_a_name_that_is_replaced_at_full_speed_is_never_stale(here: Path) -> None:
    """A name that is replaced at full speed gives a whole file to every open, listing, stat and write."""
    (here / "name").write_text("version 0" * 20)
    os.setxattr(here / "name", "user.n", b"0")
    path = here / "name"
    replacing = subprocess.Popen([sys.executable, "-c", _REPLACE], cwd=here, stdout=subprocess.PIPE)
    try:
        assert replacing.stdout is not None
        replacing.stdout.readline()
        for _ in range(1500):
            content = path.read_text()
            assert content == content[: len(content) // 20] * 20, content
            assert os.listxattr(path) == ["user.n"]
            assert int(os.getxattr(path, "user.n")) >= 0
            assert path.stat().st_size >= 180
            os.utime(path, (5, 5))
            path.chmod(0o644)
            with path.open("r+") as file:
                file.write("v")
        assert replacing.poll() is None
    finally:
        replacing.kill()
        replacing.wait()
        replacing.stdout.close()
