"""Libraries are patched when a program starts, and a version that no longer fits is named."""

import subprocess
import sys
from importlib.metadata import version

import httpcore
import httpx
import hypercorn.trio.run
import pyfuse3
import pytest
from hypercorn.trio.tcp_server import TCPServer

from kvfs import patches

OWNERS = [
    (patches.HYPERCORN_CONNECTION, hypercorn.trio.run),
    (patches.HYPERCORN_END, TCPServer),
    (patches.PYFUSE3_TRIO, pyfuse3),
    (patches.PYFUSE3_LOOP, pyfuse3),
    (patches.HTTPCORE_READS, httpcore.AsyncHTTP11Connection),
    (patches.HTTPX_COMMAND, httpx),
]


@pytest.mark.parametrize(("patch", "owner"), OWNERS, ids=lambda value: getattr(value, "name", ""))
def test_the_installed_library_is_made_as_the_patch_expects(patch, owner):
    """The installed library has the form that the patch expects; a newer one that has not must be looked at first."""
    installed = version(patch.library)
    assert patch.fits(owner), f"{patch.library} {installed} does not fit; tried: {', '.join(patch.tried)}"


def test_every_patch_is_checked_here():
    """Every patch is checked here, so that none is added without its owner."""
    known = [value for value in vars(patches).values() if isinstance(value, patches.Patch)]
    assert known == [patch for patch, _ in OWNERS]


def test_a_patch_that_does_not_fit_changes_nothing():
    """A patch that does not fit changes nothing, and does not add the name."""

    class Other:
        beside = 1

    patch = patches.Patch("library", ("1",), "name", ("beside",))
    assert not patch.apply(Other, 2)
    assert not hasattr(Other, "name")
    Other.name = 1
    assert patch.apply(Other, 2)
    assert Other.name == 2


def test_an_import_patches_nothing():
    """An import of kvfs patches nothing, because another program may use its client or its server."""
    code = (
        "import pyfuse3, trio, hypercorn.trio.run as run; from httpcore import AsyncHTTP11Connection as connection;"
        "seen = run.TCPServer, connection.READ_NUM_BYTES;"
        "import kvfs.server.serving, kvfs.store.rest.client, kvfs.daemon.run;"
        "assert seen == (run.TCPServer, connection.READ_NUM_BYTES); assert pyfuse3.trio is trio"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
