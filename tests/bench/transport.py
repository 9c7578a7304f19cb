"""Measures what each transport costs our client: one HTTP/2 connection or a pool with HTTP/1.1, gzip or not."""

import random
import string
import time
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import httpx
import trio
from bench.measuring import median
from support.mounted import Api
from support.serving import Served

from kvfs.core.model import Entry, Key, KeyInfo, KeyPage, NamespaceId
from kvfs.store.rest.client import RestStore, open_rest
from kvfs.store.wire import codec

LATENCY = 0.05  # seconds that the server adds
ROUNDS = 5
TASKS = 8  # requests in flight, as the loader has them


def _prose(seed: int) -> bytes:
    """Return a kilobyte of text that packs about as well as text does."""
    dice = random.Random(seed)
    words = ["".join(dice.choices(string.ascii_lowercase, k=dice.randrange(2, 10))) for _ in range(400)]
    return " ".join(dice.choices(words, weights=[1 / (n + 1) for n in range(400)], k=300)).encode()[:1024]


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of work over one transport: seconds of waiting and of this process' CPU, the median round's."""

    work: str
    transport: str
    wall: float
    cpu: float


def measure(served: Served) -> list[Row]:
    """Measure every kind of work over every transport, rounds interleaved. The server must take faults."""
    with Api(served) as api:
        api.result("POST", "", json={"title": "transport"})
        namespace = NamespaceId(api.namespace("transport"))
        api.bulk_put(namespace, [{"key": f"{n:04}", "value": _prose(n).decode()} for n in range(2000)])
        api.set_faults({"fault": "latency", "seconds": LATENCY})
        try:
            return trio.run(_measure, served, namespace)
        finally:
            api.set_faults()


async def _measure(served: Served, namespace: NamespaceId) -> list[Row]:
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(ROUNDS):
        for transport, make in _TRANSPORTS.items():
            options = {"base_url": served.url, "account": served.account, "token": served.token}
            async with open_rest(**options, transport=make()) as store:
                await store.get(namespace, Key("0000"))  # connected
                for work, calls in _work(store, namespace).items():
                    found.setdefault((work, transport), []).append(await _timed(calls))
    return [
        Row(work, transport, median([wall for wall, _ in rounds]), median([cpu for _, cpu in rounds]))
        for (work, transport), rounds in found.items()
    ]


_TRANSPORTS: dict[str, Callable[[], httpx.AsyncBaseTransport]] = {
    "HTTP/1.1, pooled": lambda: httpx.AsyncHTTPTransport(
        limits=httpx.Limits(max_connections=64, max_keepalive_connections=16)
    ),
    "HTTP/2": lambda: httpx.AsyncHTTPTransport(http1=False, http2=True),
}

Calls = list[Callable[[], Awaitable[object]]]


def _work(store: RestStore, namespace: NamespaceId) -> dict[str, Calls]:
    hundreds = [[Key(f"{n:04}") for n in range(start, start + 100)] for start in range(0, 2000, 100)]
    binary = Entry(bytes(range(256)) * 40)
    return {
        "40 bulk gets of 100 x 1 KiB": [partial(store.bulk_get, namespace, keys) for keys in hundreds * 2],
        "200 single gets of 1 KiB": [partial(store.get, namespace, Key(f"{n:04}")) for n in range(200)],
        "50 puts of 10 KiB": [partial(store.put, namespace, Key(f"p{n}"), binary) for n in range(50)],
    }


async def _timed(calls: Calls) -> tuple[float, float]:
    left = iter(calls)

    async def work() -> None:
        for call in left:
            await call()

    begun, cpu = time.perf_counter(), time.process_time()
    async with trio.open_nursery() as nursery:
        for _ in range(TASKS):
            nursery.start_soon(work)
    return time.perf_counter() - begun, time.process_time() - cpu


@dataclass(frozen=True, slots=True)
class Compressed:
    """An answer with gzip (level 6) and without: bytes, and seconds of our CPU to inflate it."""

    answer: str
    plain: int
    packed: int
    inflate: float

    @property
    def worthwhile_below(self) -> float:
        """Return the bytes a second of a line below which inflating takes less time than sending the difference."""
        return (self.plain - self.packed) / self.inflate


def compression() -> list[Compressed]:
    """Measure a full page of a listing, and a full bulk get of text."""
    infos = tuple(KeyInfo(Key(f"d{n // 100:04}/file-{n:05}.txt")) for n in range(1000))
    values = {Key(f"f{n:03}"): Entry(_prose(n)) for n in range(100)}
    pairs = b"".join(codec.encode_pairs(values))  # much the same text as the answer to a bulk get
    return [_compressed("list, 1,000 keys", codec.encode_page(KeyPage(infos, "cursor"))),
            _compressed("bulk get, 100 x 1 KiB", pairs)]  # fmt: skip


def _compressed(answer: str, body: bytes) -> Compressed:
    packed = zlib.compress(body, 6, wbits=31)
    times = []
    for _ in range(50):
        begun = time.perf_counter()
        zlib.decompress(packed, wbits=31)
        times.append(time.perf_counter() - begun)
    return Compressed(answer, len(body), len(packed), median(times))
