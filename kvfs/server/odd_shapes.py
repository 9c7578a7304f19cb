"""Faults of shape: answers that the API's schema allows, or nearly, and that are not what one expects.

They change the envelope only: values and metadata stay the JSON text that they were.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import msgspec
from msgspec import Raw

from kvfs.server.capture import capture, replay
from kvfs.server.effects import Effect
from kvfs.server.fault_rules import Armed
from kvfs.server.shell import App, AsgiSend, Receive, Scope

Object = dict[str, Raw]
Rewrite = Callable[[Scope, Object], None]
"""Alters an envelope in place."""

_NULL: Final = Raw(b"null")
_ENTRY: Final = {"value", "metadata", "expiration"}
_NUMBERS: Final = ("expiration", "code", "successful_key_count")


async def _reshape(
    change: Rewrite, armed: Armed, app: App, scope: Scope, receive: Receive, send: AsgiSend
) -> None:
    answer = await capture(app, scope, receive)
    body = answer.body
    if answer.is_json and not scope["path"].startswith("/_kvfs"):
        try:
            envelope = msgspec.json.decode(body, type=Object)
            change(scope, envelope)
            body = msgspec.json.encode(envelope)
        except msgspec.MsgspecError:
            body = answer.body  # another fault was here before
    await replay(answer, body, send)


def _null_lists(scope: Scope, envelope: Object) -> None:
    if envelope.get("result") == Raw(b"[]"):
        envelope["result"] = _NULL


def _numbers(form: bytes, scope: Scope, envelope: Object) -> None:
    for name in ("errors", "result"):
        _change_rows(envelope, name, partial(_rewrite_numbers, form))
    _change_entries(envelope, partial(_rewrite_numbers, form))
    for name in ("result_info", "result"):
        found = _object(envelope.get(name, _NULL))
        if found is not None:
            _rewrite_numbers(form, found, () if name == "result_info" else _NUMBERS)
            envelope[name] = _raw(found)


def _rewrite_numbers(form: bytes, row: Object, names: tuple[str, ...] = _NUMBERS) -> None:
    """Rewrite whole numbers of these members (all, if none are named) as `%d.0` or `"%d"`."""
    for name in names or tuple(row):
        text = bytes(row.get(name, _NULL))
        if text.removeprefix(b"-").isdigit():
            row[name] = Raw(form.replace(b"%d", text))


def _bare_bulk(scope: Scope, envelope: Object) -> None:
    values = _values(envelope)
    if values is not None:
        for key, raw in values.items():
            entry = _entry(raw)
            if entry is not None:
                values[key] = entry["value"]
        envelope["result"] = _raw({"values": _raw(values)})


def _no_bulk_expiration(scope: Scope, envelope: Object) -> None:
    _change_entries(envelope, lambda entry: entry.pop("expiration", None))


def _odd_rows(scope: Scope, envelope: Object) -> None:
    rows = _rows(envelope.get("result", _NULL))
    if rows is not None:
        envelope["result"] = _raw([_NULL, Raw(b'{"name":7,"id":7}'), *rows])
    if envelope.get("success") == Raw(b"false"):
        envelope["errors"] = _raw([Raw(b'"odd"'), *(_rows(envelope.get("errors", _NULL)) or ())])
    values = _values(envelope)
    if values:
        odd = max(values)
        if _entry(values[odd]) is not None:
            values[odd] = Raw(b'{"value":null,"metadata":null}')
            envelope["result"] = _raw({"values": _raw(values)})


def _plain_namespaces(scope: Scope, envelope: Object) -> None:
    if scope["path"].partition("/storage/kv/namespaces")[2].count("/") > 1:
        return

    def strip(row: Object) -> None:
        for name in set(row) - {"id", "title"}:
            del row[name]

    _change_rows(envelope, "result", strip)
    found = _object(envelope.get("result", _NULL))
    if found is not None and "title" in found:
        strip(found)
        envelope["result"] = _raw(found)


def _unknown_fields(scope: Scope, envelope: Object) -> None:
    def add(row: Object) -> object:
        return row.setdefault("kvfs_unknown", Raw(b'[{"nobody":"knows"}]'))

    for name in ("errors", "result"):
        _change_rows(envelope, name, add)
    _change_entries(envelope, add)
    info = _object(envelope.get("result_info", _NULL))
    if info is not None:
        add(info)
        envelope["result_info"] = _raw(info)
    add(envelope)


# Parts of an envelope


def _raw(value: object) -> Raw:
    return Raw(msgspec.json.encode(value))


def _object(raw: Raw) -> Object | None:
    return msgspec.json.decode(raw, type=Object) if bytes(raw)[:1] == b"{" else None


def _rows(raw: Raw) -> list[Raw] | None:
    return msgspec.json.decode(raw, type=list[Raw]) if bytes(raw)[:1] == b"[" else None


def _values(envelope: Object) -> Object | None:
    """Return the values of a bulk get; None for another answer."""
    result = _object(envelope.get("result", _NULL))
    return _object(result["values"]) if result and "values" in result else None


def _entry(raw: Raw) -> Object | None:
    """Return an entry of a bulk get with metadata."""
    found = _object(raw)
    return found if found is not None and {"value", "metadata"} <= set(found) <= _ENTRY else None


def _change_rows(envelope: Object, name: str, change: Callable[[Object], object]) -> None:
    """Alter each object of a list."""
    rows = _rows(envelope.get(name, _NULL))
    if rows is not None:
        envelope[name] = _raw(list(_changed(rows, change)))


def _changed(rows: list[Raw], change: Callable[[Object], object]) -> Iterator[Raw]:
    for raw in rows:
        row = _object(raw)
        if row is None:
            yield raw
        else:
            change(row)
            yield _raw(row)


def _change_entries(envelope: Object, change: Callable[[Object], object]) -> None:
    """Alter each entry of a bulk get."""
    values = _values(envelope)
    if values is not None:
        for key, raw in values.items():
            entry = _entry(raw)
            if entry is not None:
                change(entry)
                values[key] = _raw(entry)
        envelope["result"] = _raw({"values": _raw(values)})


SHAPES: Final[dict[str, Effect]] = {
    "null_lists": partial(_reshape, _null_lists),
    "floats": partial(_reshape, partial(_numbers, b"%d.0")),
    "digits": partial(_reshape, partial(_numbers, b'"%d"')),
    "bare_bulk": partial(_reshape, _bare_bulk),
    "no_bulk_expiration": partial(_reshape, _no_bulk_expiration),
    "odd_rows": partial(_reshape, _odd_rows),
    "plain_namespaces": partial(_reshape, _plain_namespaces),
    "unknown_fields": partial(_reshape, _unknown_fields),
}
