"""Fixtures that mounted tests share: a server and a mount for a whole module, a namespace or a server for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.mounted import Api
from support.serving import Served, served_by_process
from support.standing import Namespace, Standing, standing


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest) -> Iterator[Standing]:
    """A server and a mount of it, with the `OPTIONS` of the test module."""
    with standing(*request.module.OPTIONS) as world:
        yield world


@pytest.fixture
def space(world: Standing) -> Namespace:
    """An empty namespace."""
    return world.namespace()


@pytest.fixture
def here(space: Namespace) -> Path:
    """The directory of an empty namespace."""
    return space.path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """A server on an empty store that can be made sick."""
    with served_by_process(tmp_path, faults="") as served:
        yield served


@pytest.fixture
def api(server: Served) -> Iterator[Api]:
    """A client that asks the server directly."""
    with Api(server) as api:
        yield api
