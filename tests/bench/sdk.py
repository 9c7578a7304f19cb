"""A script over Cloudflare's official SDK, as one would write it: `python -P sdk.py MODE COMMAND`.

Modes: `singly` (a key at a time), `threads` (the same by 16 threads), `bulk` (its bulk calls, as many keys as each
takes). The command is JSON, `{"do": NAME, …}`; so is what is printed: the `count` of keys, and the `seconds` that a
program would have taken that is running already.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cloudflare

THREADS = 16
GET_KEYS, PUT_KEYS = 100, 10_000  # the most that a bulk call takes

Command = dict[str, Any]
Each = Callable[[Callable[[str], object], Iterable[str]], list[object]]


def _chunks(names: Sequence[str], size: int) -> Iterator[list[str]]:
    for first in range(0, len(names), size):
        yield list(names[first : first + size])


def _files(command: Command) -> dict[str, Path]:
    """Yield the files below a directory, by the keys they become."""
    top = Path(command["directory"])
    return {str(file.relative_to(top.parent)): file for file in sorted(top.rglob("*")) if file.is_file()}


class Singly:
    """Values one by one; `each` is how a function is applied to all keys."""

    def __init__(self, client: cloudflare.Cloudflare, account: str, each: Each) -> None:
        self._kv = client.kv.namespaces
        self._account = {"account_id": account}
        self._each = each

    def _at(self, command: Command) -> dict[str, str]:
        return {**self._account, "namespace_id": command["namespace"]}

    def create(self, command: Command) -> int:
        """Do `write` into a new namespace."""
        made = self._kv.create(title=command["title"], **self._account)
        return self.write(command | {"namespace": made.id})

    def write(self, command: Command) -> int:
        """Make values of the files below a directory."""
        at, files = self._at(command), _files(command)
        put = lambda name: self._kv.values.update(name, value=files[name].read_bytes(), **at)  # noqa: E731
        return len(self._each(put, files))

    def names(self, command: Command) -> int:
        """Return all names."""
        return len(self._names(command))

    def _names(self, command: Command) -> list[str]:
        found = self._kv.keys.list(command["namespace"], prefix=command["prefix"], **self._account)
        return [key.name for key in found]

    def read(self, command: Command) -> int:
        """Read all names, and their values."""
        at = self._at(command)
        get = lambda name: self._kv.values.get(name, **at).read()  # noqa: E731
        return sum(bool(value) for value in self._each(get, self._names(command)))

    def rename(self, command: Command) -> int:
        """Give every name another prefix."""
        old, new = command["prefix"], command["to"]
        return self._move(command, lambda name: new + name.removeprefix(old))

    def rename_files(self, command: Command) -> int:
        """Give every name another ending."""
        return self._move(command, lambda name: os.path.splitext(name)[0] + command["ending"])

    def _move(self, command: Command, goal: Callable[[str], str]) -> int:
        """Move keys by read, write and delete, because KV has no rename."""
        at = self._at(command)

        def move(name: str) -> object:
            value = self._kv.values.get(name, **at).read()
            self._kv.values.update(goal(name), value=value, **at)
            return self._kv.values.delete(name, **at)

        return len(self._each(move, self._names(command)))

    def delete(self, command: Command) -> int:
        """Delete all names of a prefix."""
        at = self._at(command)
        return len(self._each(lambda name: self._kv.values.delete(name, **at), self._names(command)))

    def save(self, command: Command) -> int:
        """Save the same text in some values."""
        at, text = self._at(command), command["text"].encode()
        return len([self._kv.values.update(name, value=text, **at) for name in command["names"]])

    def put_file(self, command: Command) -> int:
        """Put one large value."""
        value = Path(command["file"]).read_bytes()
        self._kv.values.update(command["name"], value=value, **self._at(command))
        return len(value)

    def get_file(self, command: Command) -> int:
        """Get one large value, and compare it with a file."""
        value = self._kv.values.get(command["name"], **self._at(command)).read()
        return len(value) if value == Path(command["file"]).read_bytes() else -1


class Bulk(Singly):
    """Values by the bulk calls, one after the other."""

    def write(self, command: Command) -> int:
        """Write the files, which must be text."""
        return self._put({name: file.read_text() for name, file in _files(command).items()}, command)

    def _put(self, values: dict[str, str], command: Command) -> int:
        for names in _chunks(list(values), PUT_KEYS):
            body = [{"key": name, "value": values[name]} for name in names]
            self._kv.bulk_update(command["namespace"], body=body, **self._account)
        return len(values)

    def _get(self, command: Command) -> dict[str, str]:
        found: dict[str, str] = {}
        for names in _chunks(self._names(command), GET_KEYS):
            found |= self._kv.bulk_get(command["namespace"], keys=names, **self._account).values
        return found

    def read(self, command: Command) -> int:
        """Read a hundred at a time."""
        return len(self._get(command))

    def _move(self, command: Command, goal: Callable[[str], str]) -> int:
        """Move keys: read all, write all, delete all."""
        values = self._get(command)
        self._put({goal(name): value for name, value in values.items()}, command)
        return self._drop(list(values), command)

    def delete(self, command: Command) -> int:
        """Delete up to 10,000 at a time."""
        return self._drop(self._names(command), command)

    def _drop(self, found: Sequence[str], command: Command) -> int:
        for names in _chunks(found, PUT_KEYS):
            self._kv.bulk_delete(command["namespace"], body=names, **self._account)
        return len(found)


def _serially(function: Callable[[str], object], names: Iterable[str]) -> list[object]:
    return [function(name) for name in names]


def _client(mode: str) -> Singly:
    base = os.environ["CLOUDFLARE_API_BASE_URL"]
    client = cloudflare.Cloudflare(base_url=base, api_token=os.environ["CLOUDFLARE_API_TOKEN"])
    account = os.environ["CLOUDFLARE_ACCOUNT_ID"]
    if mode == "bulk":
        return Bulk(client, account, _serially)
    if mode == "threads":
        pool = ThreadPoolExecutor(THREADS)
        return Singly(client, account, lambda function, names: list(pool.map(function, names)))
    return Singly(client, account, _serially)


def main() -> None:
    """Do what the command line asks for."""
    client, command = _client(sys.argv[1]), json.loads(sys.argv[2])
    begun = time.perf_counter()
    count = getattr(client, command["do"])(command)
    print(json.dumps({"count": count, "seconds": time.perf_counter() - begun}))


if __name__ == "__main__":
    main()
