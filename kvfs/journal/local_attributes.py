"""Local facts beside the changes: mode bits and times of keys, directories that mkdir made.

The rule: while a key has a change, its attributes are with the change; else they are in the side table. The log's
attributes of keys without a change are held in memory until the side table gets them, hundreds at a time.
"""

from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from msgspec.structs import replace

from kvfs.changes.records import SeenOp
from kvfs.core.errors import JournalFullError
from kvfs.core.model import Key, NamespaceId
from kvfs.journal.transaction import Transactions
from kvfs.kept.local import SHOWN_BYTES, DirRow, LocalAttrs

_UNSET: Final = LocalAttrs()


class LocalAttributes:
    """Attributes of files, made directories, and when namespaces were seen first.

    Every method that writes joins the transaction around it, or is one; it raises JournalError.
    """

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions
        self._kept = transactions.kept

    # files

    def file_attrs(self, namespace: NamespaceId, key: Key) -> LocalAttrs | None:
        """Return the local attributes of a key, None when it has none."""
        return self._transactions.attrs_of(namespace, key)

    def set_file_attrs(self, namespace: NamespaceId, key: Key, attrs: LocalAttrs) -> None:
        """Keep these attributes, in place of all kept before."""
        with self._transactions:
            self._transactions.set_attrs(namespace, key, attrs)

    def found(self, namespace: NamespaceId, contents: Iterable[tuple[Key, bytes]], now_ns: int) -> None:
        """Note the digests of the store's contents: one that a key was not shown with is dated `now_ns`.

        It is one transaction, or none if every content is unchanged.
        """
        news: list[tuple[Key, LocalAttrs, bool]] = []
        for key, digest in contents:
            local, shown = self.file_attrs(namespace, key) or _UNSET, digest[:SHOWN_BYTES]
            if not local.shown:
                news.append((key, replace(local, shown=shown), False))
            elif not digest.startswith(local.shown):
                dated = replace(local, mtime_ns=now_ns, ctime_ns=now_ns, shown=shown, is_gone=False)
                news.append((key, dated, True))
            elif local.is_gone:  # somebody made it anew
                news.append((key, replace(local, is_gone=False), False))
        if news:
            with self._transactions:
                for key, attrs, is_visible in news:
                    self._transactions.set_attrs(namespace, key, attrs, is_visible=is_visible)

    # directories

    def dirs_under(self, namespace: NamespaceId, prefix: str) -> list[DirRow]:
        """Return made directories whose prefix starts with `prefix`, itself included, in order, as they are now."""
        found, made = self._under(namespace, prefix), self._transactions.directories
        if not made:
            return found
        rows: dict[tuple[str, int], DirRow | None] = {(row.prefix, row.start): row for row in found}
        for (of, name, start), row in made.items():  # as the transaction under way leaves them
            if of == namespace and name.startswith(prefix):
                rows[name, start] = row
        return [row for _, row in sorted(rows.items(), key=lambda item: item[0]) if row is not None]

    def _under(self, namespace: NamespaceId, prefix: str) -> list[DirRow]:
        rows = self._kept.directories.get(namespace)
        found: list[DirRow] = []
        if not rows or rows.peekitem(-1)[0][0] < prefix:  # so it is below most names that are being made
            return found
        for place in rows.irange((prefix, 0)):
            if not place[0].startswith(prefix):
                break
            found.append(rows[place])
        return found

    def dir(self, namespace: NamespaceId, prefix: str, start: int) -> DirRow | None:
        """Return one made directory."""
        made = self._transactions.directories
        if made and (place := (namespace, prefix, start)) in made:
            return made[place]
        rows = self._kept.directories.get(namespace)
        return rows.get((prefix, start)) if rows else None

    def has_dir(self, namespace: NamespaceId, prefix: str, start: int) -> bool:
        """Return whether mkdir made this directory here."""
        return self.dir(namespace, prefix, start) is not None

    def add_dir(self, namespace: NamespaceId, row: DirRow) -> None:
        """Make a directory, or change its attributes."""
        with self._transactions:
            self._transactions.set_directory(namespace, row.prefix, row.start, row)

    def remove_dir(self, namespace: NamespaceId, prefix: str, start: int) -> None:
        """Forget a made directory; nothing happens if mkdir did not make it."""
        with self._transactions:
            self._transactions.set_directory(namespace, prefix, start, None)

    def move_dirs(self, namespace: NamespaceId, old_prefix: str, new_prefix: str) -> None:
        """Rename all made directories whose prefix starts with `old_prefix`."""
        shift = len(new_prefix) - len(old_prefix)
        rows = self.dirs_under(namespace, old_prefix)
        with self._transactions:
            for row in rows:
                self.remove_dir(namespace, row.prefix, row.start)
            for row in rows:
                prefix, start = new_prefix + row.prefix[len(old_prefix) :], max(0, row.start + shift)
                self.add_dir(namespace, replace(row, prefix=prefix, start=start))

    def namespace_first_seen(self, namespace: NamespaceId, now: float) -> int:
        """Return when this machine first saw the namespace, in epoch seconds: `now` if it never did."""
        found = self._kept.seen.get(namespace)
        if found is None:
            found = int(now)
            with suppress(JournalFullError), self._transactions:  # a full disk: it is asked again
                self._transactions.say(SeenOp(namespace, found))
        return found
