"""The server behind kvfs, the SDK and wrangler: filled and looked at past the relay, and emptied again."""

import uuid
from collections.abc import Iterator, Set
from contextlib import contextmanager

from bench.material import BIG_NAME, TREE, Material
from bench.relay import Relay
from bench.workloads import Phase
from support.mounted import Api
from support.serving import Served

_BULK_PAIRS = 10_000


def relayed(served: Served, relay: Relay) -> Served:
    """Return a server as it is seen through a relay."""
    return Served(f"http://127.0.0.1:{relay.port}/client/v4", served.token, served.account, served.pid)


class Remote:
    """The content of the server, asked past the relay: of one namespace, or (no title) of all, as directories."""

    def __init__(self, api: Api, title: str, number: str, server: int) -> None:
        self._api = api
        self.title = title
        self.number = number
        self.server = server  # its process

    def stored(self) -> Set[str]:
        """Return the names below the root of the mount."""
        if self.title:
            return self._api.keys(self.number).keys()
        titles = self._api.titles()
        return {f"{title}/{key}" for title in titles for key in self._api.keys(self._api.namespace(title))}

    def value(self, name: str) -> bytes | None:
        """Return one value of the namespace."""
        return self._api.get(self.number, name)


@contextmanager
def remote(served: Served, material: Material, phase: Phase) -> Iterator[Remote]:
    """A namespace with the phase's content, or an account without any, filled past the relay; empty afterwards."""
    title = "" if phase.is_account else f"bench-{uuid.uuid4().hex[:8]}"
    with Api(served) as api:
        number = api.result("POST", "", json={"title": title})["id"] if title else ""
        if TREE in phase.content:
            pairs = material.pairs()
            for first in range(0, len(pairs), _BULK_PAIRS):
                api.bulk_put(number, pairs[first : first + _BULK_PAIRS])
        if BIG_NAME in phase.content:
            api.put(number, BIG_NAME, material.big.read_bytes())
        try:
            yield Remote(api, title, number, served.pid)
        finally:
            for made in api.titles():
                api.result("DELETE", f"/{api.namespace(made)}")
