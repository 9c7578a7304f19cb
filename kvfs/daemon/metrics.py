"""`.kvfs/metrics`: the numbers of the status in the format of Prometheus. docs/operating.md lists them for users."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from msgspec import to_builtins
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from kvfs import __version__
from kvfs.core.durations import BUCKETS, Durations, count, seconds, upper
from kvfs.host.control import Message
from kvfs.host.replies import StatusReport

BOUNDS: Final = range(0, 27, 2)
"""Buckets of `core.durations` that are told: bounds of 1 µs, 4 µs, … 67 s."""


_PLAIN: Final = {
    "kvfs_offline": ("offline", "1: mounted without the server, which has not answered since"),
    "kvfs_server_reachable": ("store reachable", "0: sending waits because the server fails"),
    "kvfs_pending_oldest_seconds": ("pending oldest_seconds", "Age of the oldest pending change; 0: none"),
    "kvfs_settling_changes": ("settling count", "Changes at the server that it may not show everywhere yet"),
    "kvfs_rejected_changes": ("rejected count", "Changes the server refused for ever"),
    "kvfs_local_files": ("local count", "Files that stay on this machine because of their names"),
    "kvfs_send_failures_total": ("sender failures", "Requests of the sender that failed"),
    "kvfs_conflicts_total": (
        "sender conflicts",
        "Names another client had changed since they were read here",
    ),
    "kvfs_dollars_total": ("keys dollars", "What the keys cost at list price"),
    "kvfs_budget_requests_left": ("budget left", "Requests left in the window of the rate limit"),
    "kvfs_budget_requests_used": ("budget used", "Requests used in it"),
    "kvfs_budget_window_seconds": ("budget window_seconds", "The length of the window"),
    "kvfs_cache_bytes": ("cache bytes", "Bytes of values in memory"),
    "kvfs_cache_limit_bytes": ("cache limit", "The bound on them"),
    "kvfs_cache_values": ("cache values", "Values in memory"),
    "kvfs_cache_keys": ("cache keys", "Keys that listings in memory have"),
    "kvfs_inodes": ("inodes count", "Files that the kernel knows"),
    "kvfs_open_files": ("inodes open", "Files that are open"),
}
"""Name → where it is in the status, and HELP. A counter's name ends in _total."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The sources of the numbers. `pending` is count and bytes by the name of a namespace."""

    source: str
    status: Callable[[], StatusReport]
    pending: Callable[[], Mapping[str, tuple[int, int]]]
    operations: Callable[[], Mapping[str, Durations]]
    requests: Callable[[], Mapping[str, Durations]]
    waited: Callable[[], int]


class MountMetrics(Collector):
    """All metrics of one mount, collected at each read."""

    def __init__(self, measured: Measured) -> None:
        self._measured = measured
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def text(self) -> bytes:
        """Return the whole text, with HELP and TYPE of each metric."""
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Describe nothing in advance, because it would have to be collected for that."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield one family of metrics after the other."""
        status: Message = to_builtins(self._measured.status())
        status["offline"] = status["state"] == "offline"
        info = InfoMetricFamily("kvfs_mount", "What is mounted, by which version")
        info.add_metric([], {"source": _label(self._measured.source), "version": __version__})
        yield info
        yield from _plain(status)
        yield from self._pending()
        yield from _by_kind(status)
        yield _histogram(
            "kvfs_operation_duration_seconds",
            "How long the operations of programs took in the daemon",
            self._measured.operations(),
        )
        yield CounterMetricFamily(
            "kvfs_operations_waited_total",
            "Operations that waited for the server",
            value=self._measured.waited(),
        )
        yield _histogram(
            "kvfs_request_duration_seconds", "How long requests to the server took", self._measured.requests()
        )

    def _pending(self) -> Iterator[Metric]:
        changes = GaugeMetricFamily(
            "kvfs_pending_changes", "Changes not known to be at the server", labels=["namespace"]
        )
        size = GaugeMetricFamily("kvfs_pending_bytes", "Bytes of their values", labels=["namespace"])
        for name, (number, length) in sorted(self._measured.pending().items()):
            changes.add_metric([_label(name)], number)
            size.add_metric([_label(name)], length)
        yield from (changes, size)


def _plain(status: Message) -> Iterator[Metric]:
    """Yield the numbers of the status that have no label: `_PLAIN`; and those by kind."""
    for name, (path, text) in _PLAIN.items():
        found: Any = status
        for word in path.split():
            found = found.get(word) if isinstance(found, dict) else None
        if found is None and name != "kvfs_pending_oldest_seconds":
            continue  # a store without requests has no budget
        value = float(found or 0)
        if name.endswith("_total"):
            yield CounterMetricFamily(name, text, value=value)
        else:
            yield GaugeMetricFamily(name, text, value=value)


def _by_kind(status: Message) -> Iterator[Metric]:
    sender, keys = status["sender"], status["keys"]
    sent = {"put": sender["sent"], "delete": sender["deleted"]}
    billed = {kind: keys.get(kind, 0) for kind in ("read", "written", "deleted", "lists")}
    yield _counters("kvfs_changes_sent_total", "Changes that arrived at the server", "kind", sent)
    yield _counters("kvfs_requests_total", "Requests to the server", "operation", status["requests"])
    yield _counters("kvfs_keys_total", "Keys as they are billed; lists are requests", "kind", billed)


def _counters(name: str, text: str, label: str, numbers: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for word, number in sorted(numbers.items()):
        family.add_metric([word], number)
    return family


def _label(text: str) -> str:
    """Return a label in UTF-8, without lone surrogates, which a path may have."""
    return text.encode("utf-8", "backslashreplace").decode()


def _histogram(name: str, text: str, times: Mapping[str, Durations]) -> Metric:
    """Return a histogram by operation, with bounds four times as large each."""
    family = HistogramMetricFamily(name, text, labels=["operation"])
    for operation, durations in sorted(times.items()):
        below = [
            (f"{upper(bound):g}", float(sum(durations[: bound + 1]))) for bound in BOUNDS if bound < BUCKETS
        ]
        family.add_metric([operation], [*below, ("+Inf", float(count(durations)))], seconds(durations))
    return family
