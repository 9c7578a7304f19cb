"""Eight processes at mixed work, with faults: some seconds of what `scripts/soak` does for an hour."""

from pathlib import Path

import pytest
from crash.soak import soak

pytestmark = pytest.mark.fuse


def test_nothing_stalls_nothing_leaks_and_nothing_is_left(tmp_path: Path) -> None:
    """No call above the bound, no growth, no descriptor or inode kept, every count back at zero."""
    assert soak(tmp_path, 10, faults=True) == []
