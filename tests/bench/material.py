"""The files that everything under test gets: a tree of small texts, and one value of the largest size."""

import os
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SMALL = 1024  # bytes
BIG = 25 * 2**20  # bytes: what Workers KV allows
PER_DIRECTORY = 50
NEEDLE = "needle"
NEEDLE_EVERY = 10
SAVED = 5  # files that the editor saves

TREE, BIG_NAME = "tree", "big.bin"
FIRST = f"{TREE}/d000"  # the directory whose files are renamed one by one


@dataclass(frozen=True)
class Material:
    """Files below `directory`; `names` are those of the tree, relative to it and beginning with `tree/`."""

    directory: Path
    names: tuple[str, ...]

    @property
    def tree(self) -> Path:
        """The directory of small files."""
        return self.directory / TREE

    @property
    def big(self) -> Path:
        """The large file."""
        return self.directory / BIG_NAME

    @property
    def first(self) -> tuple[str, ...]:
        """The files of the first directory."""
        return self.names[:PER_DIRECTORY]

    @property
    def needles(self) -> int:
        """Return how many small files hold the word that is searched."""
        return -(-len(self.names) // NEEDLE_EVERY)

    def pairs(self) -> list[dict[str, Any]]:
        """Return the tree in the form that Workers KV takes in bulk."""
        return [{"key": name, "value": (self.directory / name).read_text()} for name in self.names]

    def copy(self, target: Path, content: Sequence[str]) -> None:
        """Copy `tree`, `big.bin` or both into `target`."""
        target.mkdir(parents=True, exist_ok=True)
        for name in content:
            source = self.directory / name
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target / name)


def make(directory: Path, n: int, big: int = BIG) -> Material:
    """Make `n` small files, fifty in a directory, none alike, every tenth with a needle. Each call makes the same."""
    dice = random.Random(7)
    for name in (names := tuple(_names(n))):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        last = f"{NEEDLE}\n" if int(path.stem[1:]) % NEEDLE_EVERY == 0 else "\n"
        lines = "".join(f"{dice.randbytes(31).hex()}\n" for _ in range(SMALL // 63 + 1))
        path.write_text(lines[: SMALL - len(last)] + last)
    with (directory / BIG_NAME).open("wb") as file:
        for _ in range(big // 2**16):
            file.write(dice.randbytes(2**16))
        os.fsync(file.fileno())
    return Material(directory, names)


def _names(n: int) -> Iterator[str]:
    for number in range(n):
        yield f"{TREE}/d{number // PER_DIRECTORY:03}/f{number:05}.txt"
