"""Extended attributes of files: fields of the metadata, and what is computed."""

import logging
import re
from collections.abc import Callable
from typing import Final

from kvfs.core import xattrs as rules
from kvfs.core.errors import InvalidError, NoAttributeError, NotSupportedError, StaleError
from kvfs.core.expiry import expiration_for_mtime, milliseconds_hint
from kvfs.core.freshness import NEVER, is_fresh
from kvfs.core.measures import parse_duration
from kvfs.core.model import Change, ChangeState, Key, KeyRef, Metadata, NamespaceId
from kvfs.vfs.file.files import Files
from kvfs.vfs.inode.nodes import Directory, File, Node
from kvfs.vfs.view.overlay import Overlay, View

log = logging.getLogger("kvfs.vfs")

_EXPIRATION: Final = "user.kvfs.expiration"
_TTL: Final = "user.kvfs.ttl"
_MOMENT: Final = 1.0  # seconds between two attributes that one program copies
_ROUNDING: Final = 2  # seconds by which a ttl that was read and is set anew may be off
_COPYING: Final = 60  # seconds for which a copy may be under way: by so many its ttl is too long


def _kept(known: int | None, wanted: int, is_copy: bool) -> int:
    """Return the expiration when a ttl asks for `wanted`: the one that is there, if the ttl was read off that."""
    if known is not None and -_ROUNDING <= wanted - known <= (_COPYING if is_copy else _ROUNDING):
        return known
    return wanted


class ExtendedAttributes:
    """Reads and changes of them."""

    def __init__(
        self, overlay: Overlay, files: Files, now: Callable[[], float], *, lists_expiration: bool = False
    ) -> None:
        self._lists_expiration = lists_expiration
        # the key whose `user.kvfs.expiration` was set last, and when
        self._set_lately: tuple[KeyRef, float] | None = None
        self._overlay = overlay
        self._files = files
        self._now = now
        self._ttl = overlay.ttl
        # this room does not know why a change is not at the server, and which keys are two versions of one
        self.error_of: Callable[[Change], str] = lambda change: change.error or ""
        self.conflict_of: Callable[[NamespaceId, Key], str] = lambda namespace, key: ""

    async def list(self, node: Node) -> list[str]:
        """The names of a file's fields; what is computed is not listed, so that nobody copies it.

        But the expiration is, where that is not the mtime: it is to go along. The exact one comes last, because
        that is the order in which most programs copy them.
        """
        if not isinstance(node, File):
            return []
        metadata, expiration, _ = await self._view(node)
        names = rules.list_names(metadata)
        if expiration is not None and self._lists_expiration:
            names += [_TTL, _EXPIRATION]
        return names

    async def get(self, node: Node, name: str) -> bytes:
        """Return one attribute. Raises `NoAttributeError`, `NotSupportedError`."""
        if not name.startswith(rules.USER):
            raise NotSupportedError("only user.* attributes are kept")
        if isinstance(node, Directory) and name in ("user.kvfs.key", "user.kvfs.namespace_id"):
            return (node.ref.prefix if name.endswith("key") else node.namespace).encode()
        if not isinstance(node, File):
            raise NoAttributeError("directories have no attributes")
        metadata, expiration, view = await self._view(node)
        if name in rules.COMPUTED:
            return self._computed(node, name, expiration, view)
        return rules.get(metadata, name)

    async def _view(self, node: File) -> tuple[Metadata | None, int | None, View | None]:
        if node.open is not None:
            view = self._overlay.known.peek(node.namespace, node.key, stale=True)
            found = view if isinstance(view, View) and not node.detached else None
            return node.open.metadata, node.open.expiration, found
        if node.detached:  # replaced a moment ago: what is there now is meant
            clean = await self._files.opener.successor(node)
            return clean.metadata, clean.expiration, None
        view = await self._overlay.view(node.namespace, node.key)
        if view is None:
            raise StaleError("the file is gone")
        return view.metadata, view.expiration, view

    def _computed(self, node: File, name: str, expiration: int | None, view: View | None) -> bytes:
        now = self._now()
        if name == "user.kvfs.key":
            return node.key.encode()
        if name == "user.kvfs.namespace_id":
            return node.namespace.encode()
        if name == "user.kvfs.conflict" and (others := self.conflict_of(node.namespace, node.key)):
            return others.encode()
        if name == "user.kvfs.state":
            return self._state(node, view).encode()
        if name == "user.kvfs.age":
            known = view.fresh_until - self._ttl if view is not None else now
            if known <= NEVER:
                raise NoAttributeError("what was read is to be asked for anew")
            return str(max(0, int(now - known))).encode()
        if name == "user.kvfs.error" and (error := self._error(view)):
            return error.encode()
        if name in ("user.kvfs.expiration", "user.kvfs.ttl") and expiration is not None:
            return str(expiration if name.endswith("expiration") else max(0, int(expiration - now))).encode()
        raise NoAttributeError(f"no attribute {name!r}")

    def _error(self, view: View | None) -> str:
        if view is None or view.change is None or view.change.acked_at is not None:
            return ""
        return self.error_of(view.change) if view.change.state is not ChangeState.LOCAL else ""

    def _state(self, node: File, view: View | None) -> str:
        if node.open is not None and node.open.dirty:
            return "pending"
        if view is None or view.change is None or view.change.acked_at is not None:
            return "clean"
        return self._files.syncing.state_of(view.change)

    async def set(self, node: Node, name: str, value: bytes) -> None:
        """Change one field of the metadata, or the expiration by `user.kvfs.ttl`."""
        self._check_settable(node, name)
        assert isinstance(node, File)
        if name in ("user.kvfs.ttl", "user.kvfs.expiration"):
            wanted = self._expiration_of(name, value)
            is_ttl, is_copy = name == _TTL, self._is_copy(node)
            await self._files.amending.amend(
                node,
                lambda metadata, known: (metadata, _kept(known, wanted, is_copy) if is_ttl else wanted),
            )
            self._set_lately = None if is_ttl else ((node.namespace, node.key), self._now())
            if not is_ttl and (hint := milliseconds_hint(wanted)):
                log.warning("%r expires far from now: %s", node.key, hint)
        else:
            await self._files.amending.amend(
                node, lambda metadata, expiration: (rules.set(metadata, name, value), expiration)
            )

    async def remove(self, node: Node, name: str) -> None:
        """Remove one field, or by `user.kvfs.ttl` the expiration."""
        self._check_settable(node, name, NoAttributeError)
        assert isinstance(node, File)
        if name in ("user.kvfs.ttl", "user.kvfs.expiration"):
            await self.get(node, name)
            await self._files.amending.amend(node, lambda metadata, _: (metadata, None))
        else:
            await self._files.amending.amend(
                node, lambda metadata, expiration: (rules.remove(metadata, name), expiration)
            )

    @staticmethod
    def _check_settable(
        node: Node, name: str, missing: type[NoAttributeError] | type[NotSupportedError] = NotSupportedError
    ) -> None:
        if not name.startswith(rules.USER):
            raise NotSupportedError("only user.* attributes are kept")
        if not isinstance(node, File):
            raise missing("directories have no attributes: KV keeps metadata for keys only")

    def _expiration_of(self, name: str, value: bytes) -> int:
        text = value.decode(errors="replace").strip()
        if re.fullmatch("[0-9]{1,19}", text):  # of any length: what was read off an expiration is set again
            number = int(text)
        elif name == _TTL:
            number = int(parse_duration(text))
        else:
            raise InvalidError(f"{name} takes whole seconds since 1970, not {text[:32]!r}")
        if name == _TTL:
            number += int(self._now())
        expiration = expiration_for_mtime(number, self._now())
        if expiration is None:
            raise InvalidError(f"{name}: KV keeps nothing for less than 60 s")
        return expiration

    def _is_copy(self, node: File) -> bool:
        """Return whether the expiration was set a moment ago: a program copies it and the ttl one by one."""
        if self._set_lately is None or self._set_lately[0] != (node.namespace, node.key):
            return False
        return is_fresh(self._set_lately[1], _MOMENT, self._now())
