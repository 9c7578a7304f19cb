"""The stores of a source as the daemon opens them."""

import httpcore
import pytest

from kvfs.config import Config
from kvfs.core.errors import UserError
from kvfs.daemon.build import open_stores
from kvfs.patches import HTTPCORE_READS
from kvfs.store.rest.request import READ_BYTES
from kvfs.workers import WranglerSource


async def test_values_of_a_dev_server_are_read_in_large_pieces(tmp_path, monkeypatch) -> None:
    """The library is told before the first request to the dev server, which is away here."""
    monkeypatch.setattr(httpcore.AsyncHTTP11Connection, HTTPCORE_READS.name, 64 * 1024)
    config = Config(
        WranglerSource(origin="http://127.0.0.1:9"), tmp_path / "mnt", state_dir=tmp_path / "state"
    )
    with pytest.raises(UserError):
        async with open_stores(config, None):
            pass
    assert getattr(httpcore.AsyncHTTP11Connection, HTTPCORE_READS.name) == READ_BYTES
