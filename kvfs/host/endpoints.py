"""The findings of `kvfs verify` about an endpoint, kept in the state directory for later mounts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kvfs.host.state import private_directory, read_as, state_name, write_record

_DIRECTORY: Final = "endpoints"


@dataclass(frozen=True, slots=True)
class Learned:
    """The findings of an endpoint by its base URL.

    `at` is epoch seconds; `pair_seconds` of a bulk put, None if not known.
    """

    base_url: str
    at: float
    stale_seconds: float
    pair_seconds: float | None
    differences: tuple[str, ...]


def save_learned(learned: Learned, state_dir: Path) -> None:
    """Keep the findings in the place of earlier ones."""
    private_directory(state_dir)
    path = _path(learned.base_url, state_dir)
    private_directory(path.parent)
    write_record(learned, path)


def load_learned(base_url: str, state_dir: Path) -> Learned | None:
    """Return the findings about an endpoint; None if there are none or the file cannot be read."""
    return read_as(Learned, _path(base_url, state_dir))


def _path(base_url: str, state_dir: Path) -> Path:
    return state_dir / _DIRECTORY / f"{state_name(base_url)}.json"
