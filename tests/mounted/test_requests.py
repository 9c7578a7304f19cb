"""Requests of the common workloads, counted at the server: exact floors, not impressions."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from support.mounted import Api, Mounted, mounted
from support.serving import Served, served_by_process
from support.standing import Counts

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

FILES = 10_000
BODIES = 4  # of a thousand pairs, of two, of four, and of what is left: they double while answers are quick
LATER = "--write-back=600"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """A server on an empty store."""
    with served_by_process(tmp_path) as served:
        yield served


def _tree(directory: Path) -> Path:
    """Make 10,000 files of 1 KiB, none alike."""
    source = directory / "source"
    source.mkdir()
    for number in range(FILES):
        (source / f"file-{number:05}.txt").write_text(f"{number:05} ".ljust(1024, "x"))
    return source


def _copied_in(mount: Mounted, source: Path) -> None:
    mount.shell(f"mkdir ns && cp -r {source} ns/tree")
    mount.sync()


def _cold(tmp_path: Path, server: Served, name: str, *options: str) -> AbstractContextManager[Mounted]:
    """Mount as another machine would: with a journal of its own, knowing nothing."""
    directory = tmp_path / name
    directory.mkdir()
    return mounted(directory, "cloudflare:", LATER, *options, served=server)


def test_ten_thousand_files_cost_their_floor(tmp_path: Path, server: Served) -> None:
    """cp -r in, cold cat, cold ls -l and rm -rf of 10,000 files cost their exact floor, a second look nothing."""
    source = _tree(tmp_path)
    with Api(server) as api:
        with mounted(tmp_path, "cloudflare:", LATER, served=server) as mount:
            counts = Counts(api)
            _copied_in(mount, source)
            assert counts.since() == {"create_namespace": 1, "list_keys": 1, "bulk_put": BODIES}

        for command, printed in (
            ("cat ns/tree/* | wc -c", f"{FILES * 1024}"),
            ("ls -l ns/tree | grep -c ' 1024 '", f"{FILES}"),
        ):
            with _cold(tmp_path, server, command.split()[0]) as mount:
                counts = Counts(api)
                assert mount.shell(command).strip() == printed
                assert counts.since() == {"list_keys": FILES // 1000, "bulk_get": FILES // 100}
                counts = Counts(api)
                mount.shell("cat ns/tree/* > /dev/null; ls -l ns/tree > /dev/null")
                assert counts.since() == {}

        with _cold(tmp_path, server, "rm") as mount:
            counts = Counts(api)
            mount.shell("rm -rf ns/tree")
            mount.sync()
            assert counts.since() == {"list_keys": FILES // 1000, "bulk_delete": BODIES}
            assert api.keys(api.namespace("ns")) == {}
            mount.shell("rmdir ns")
        assert api.titles() == set()


@pytest.mark.parametrize(
    ("save", "looks"),
    [
        ("sed -i s/a/ab/ ns/f", [1, 1]),  # another file takes the name, and is compared all the same
        ("vim -es -u NONE -c 's/a/ab/' -c wq ns/f", [1, 1]),
    ],
)
def test_an_editor_save_costs_one_write(tmp_path: Path, server: Served, save: str, looks: list[int]) -> None:
    """An editor's save costs one write, and one comparison if the old value was read or written here."""
    with Api(server) as api:
        namespace = api.result("POST", "", json={"title": "ns"})["id"]
        api.bulk_put(namespace, [{"key": "f", "value": "a\n"}])
        with mounted(tmp_path, "cloudflare:", LATER, served=server) as mount:
            mount.shell("cat ns/f")
            for saved, asked in zip((b"ab\n", b"abb\n"), looks, strict=True):
                counts = Counts(api)
                mount.shell(save)
                mount.sync()
                assert counts.since() == ({"bulk_get": asked} if asked else {}) | {"bulk_put": 1}
                assert api.get(namespace, "f") == saved


def test_a_save_that_does_not_look_costs_one_request(tmp_path: Path, server: Served) -> None:
    """A save with `--on-conflict=overwrite`, or of a value that was not read here, costs one request."""
    with Api(server) as api:
        namespace = api.result("POST", "", json={"title": "ns"})["id"]
        api.bulk_put(namespace, [{"key": "f", "value": "a\n"}, {"key": "g", "value": "a\n"}])
        with mounted(tmp_path, "cloudflare:", LATER, "--on-conflict=overwrite", served=server) as mount:
            mount.shell("cat ns/f")
            counts = Counts(api)
            mount.shell("sed -i s/a/b/ ns/f")
            mount.sync()
            assert counts.since() == {"bulk_put": 1}
        with _cold(tmp_path, server, "unread", "--sizes=known") as mount:  # else its size is asked for
            mount.shell("ls ns")
            counts = Counts(api)
            mount.shell("echo b > ns/g")
            mount.sync()
            assert counts.since() == {"bulk_put": 1}
