"""What most mounted tests share: a server and a mount for a whole module, a namespace for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
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
