"""The steps of a beginning mount, for its parent: records of the log that carry `doing`."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from kvfs.config import CloudflareSource, Config

log = logging.getLogger("kvfs.daemon")


@contextmanager
def telling(tell: Callable[[str], None]) -> Iterator[None]:
    """Pass on the steps in the records of the log while a mount starts. `tell` must not wait."""
    handler = _Telling(tell)
    logger = logging.getLogger("kvfs")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Telling(logging.Handler):
    """A handler of the log that knows the host of the requests; a record of a retry has the number of the attempt."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._tell = tell
        self._doing = ""

    def emit(self, record: logging.LogRecord) -> None:
        if doing := getattr(record, "doing", ""):
            self._doing = str(doing)
            self._tell(self._doing)
        elif attempt := getattr(record, "attempt", 0):
            self._tell(f"{self._doing}, attempt {attempt}")


def doing(text: str) -> None:
    """Report that the mount does this from now on."""
    log.info("%s", text, extra={"doing": text})


def host_of(config: Config) -> str:
    """Return the host that the first requests of a mount ask."""
    source = config.source
    return urlsplit(source.base_url).netloc if isinstance(source, CloudflareSource) else str(source)
