"""What the common workloads cost in requests, counted at the server: exact floors, not impressions."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from support.mounted import Api, Mounted, mounted
from support.serving import Served, served_by_process

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

FILES = 10_000
FLOOR = FILES // 1000 + FILES // 100 + 1  # and the namespaces
WRITES = ("bulk_put", "put_value", "bulk_delete", "bulk_delete_post", "delete_value")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """A server on an empty store."""
    with served_by_process(tmp_path) as served:
        yield served


def _since(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    counts = {name: count - before.get(name, 0) for name, count in after.items()}
    return {name: count for name, count in counts.items() if count}


def _tree(directory: Path) -> Path:
    """10,000 files of 1 KiB, none alike."""
    source = directory / "source"
    source.mkdir()
    for number in range(FILES):
        (source / f"file-{number:05}.txt").write_text(f"{number:05} ".ljust(1024, "x"))
    return source


def _copied_in(mount: Mounted, source: Path) -> None:
    mount.shell(f"mkdir ns && cp -r {source} ns/tree")
    mount.sync()


def _cold(tmp_path: Path, server: Served, name: str) -> AbstractContextManager[Mounted]:
    """A mount of another machine, so to say: with a journal of its own, it knows nothing."""
    directory = tmp_path / name
    directory.mkdir()
    return mounted(directory, "cloudflare:", served=server)


def test_ten_thousand_files_cost_few_requests(tmp_path: Path, server: Served) -> None:
    """cp -r, cold cat, cold ls -l and rm -rf of 10,000 files stay within the promised requests."""
    source = _tree(tmp_path)
    with Api(server) as api:
        with mounted(tmp_path, "cloudflare:", served=server) as mount:
            before = api.requests()
            _copied_in(mount, source)
            copied = _since(before, api.requests())
        print("cp -r:", copied)
        assert sum(copied.get(name, 0) for name in WRITES) <= 12, copied
        assert copied.get("get_value", 0) + copied.get("bulk_get", 0) == 0, copied
        assert sum(copied.values()) <= 20, copied

        with _cold(tmp_path, server, "cat") as mount:
            before = api.requests()
            output = mount.shell("cat ns/tree/* | wc -c")
            read = _since(before, api.requests())
            before = api.requests()
            mount.shell("cat ns/tree/* > /dev/null; ls -l ns/tree > /dev/null")
            again = _since(before, api.requests())
        print("cold cat:", read, "warm:", again)
        assert output.strip() == str(FILES * 1024)
        assert read.get("get_value", 0) == 0, read
        assert sum(read.values()) <= FLOOR, read
        assert again == {}, again

        with _cold(tmp_path, server, "ls") as mount:
            before = api.requests()
            lines = mount.shell("ls -l ns/tree").splitlines()
            listed = _since(before, api.requests())
        print("cold ls -l:", listed)
        assert len(lines) == FILES + 1
        assert all(" 1024 " in line for line in lines[1:])
        assert sum(listed.values()) <= FLOOR, listed

        with _cold(tmp_path, server, "rm") as mount:
            before = api.requests()
            mount.shell("rm -rf ns/tree")
            mount.sync()
            removed = _since(before, api.requests())
            print("rm -rf:", removed)
            assert sum(removed.get(name, 0) for name in WRITES) <= 12, removed
            assert removed.get("get_value", 0) + removed.get("bulk_get", 0) == 0, removed
            assert api.keys(api.namespace("ns")) == {}
            mount.shell("rmdir ns")
        assert api.titles() == set()
