"""Request bodies: read up to a limit and not a byte further, taken apart when they are multipart."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import trio
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from kvfs.core.limits import VALUE_BYTES
from kvfs.server.error_answers import Refusal, invalid, oversize
from kvfs.store import codes
from kvfs.store.wire.codec import MalformedError

T = TypeVar("T")

SMALL_BODY: Final = 64 * 1024  # bytes: a title
MULTIPART_BODY: Final = VALUE_BYTES + 64 * 1024  # a value, its metadata and what is around them
OFF_LOOP_BYTES: Final = 1024 * 1024  # work on more than this is done in a thread


@dataclass(frozen=True, slots=True)
class UploadedEntry:
    """The body of a single put: `metadata` is its text as sent, None without such a part."""

    value: bytes
    metadata: bytes | None


async def read_body(request: Request, limit: int, what: str = "Request body") -> bytes:
    """Return the whole body. Raises `Refusal` (413) as soon as it is known to be above `limit` bytes."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise oversize(f"{what} length of {declared}", limit)
    chunks: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        more = message.get("more_body", False)
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > limit:
            raise oversize(what, limit)
    return b"".join(chunks)


async def read_upload(request: Request) -> UploadedEntry:
    """Return the body of a single put: multipart, or anything else taken as it is."""
    content_type = request.headers.get("content-type", "")
    if not content_type.lower().startswith("multipart/form-data"):
        return UploadedEntry(await read_body(request, VALUE_BYTES, "Value"), None)
    body = await read_body(request, MULTIPART_BODY)
    upload = await off_loop(len(body), lambda: _parse_multipart(content_type, body))
    if len(upload.value) > VALUE_BYTES:
        raise oversize(f"Value length of {len(upload.value)}", VALUE_BYTES)
    return upload


async def off_loop(size: int, work: Callable[[], T]) -> T:
    """Do `work`, in a thread when it is about that many bytes. `MalformedError` becomes a `Refusal` (400)."""
    try:
        return await trio.to_thread.run_sync(work) if size > OFF_LOOP_BYTES else work()
    except MalformedError as exc:
        raise invalid(f"invalid request body: {exc}") from exc


def _parse_multipart(content_type: str, body: bytes) -> UploadedEntry:
    found: dict[str, bytes] = {}
    ends: list[bool] = []

    def keep_field(field: Field) -> None:
        found[(field.field_name or b"").decode("latin-1")] = field.value or b""

    def keep_file(file: File) -> None:
        file.file_object.seek(0)
        found[(file.field_name or b"").decode("latin-1")] = file.file_object.read()

    try:
        boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
        in_memory = {"MAX_MEMORY_FILE_SIZE": MULTIPART_BODY}
        at_end = partial(ends.append, True)
        kind = "multipart/form-data"
        parser = FormParser(kind, keep_field, keep_file, at_end, boundary, config=in_memory)
        parser.write(body)
        parser.finalize()
    except (FormParserError, ValueError) as exc:
        raise invalid("put: 'malformed multipart body'") from exc
    if not boundary or not ends:
        raise invalid("put: 'malformed multipart body'")
    if "value" not in found:
        text = "put: 'multipart put request does not contain required form field 'value''"
        raise Refusal(400, codes.MULTIPART, text)
    return UploadedEntry(found["value"], found.get("metadata"))
