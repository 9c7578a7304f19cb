"""Bodies on their way: sent in bites, received within a size and a time, whatever the other side does.

A request has a deadline of its own on top of the client's time-outs, which each byte that moves pushes on a
little: an honest slow line gets through, an answer that drips does not.
"""

import gc
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from io import BytesIO
from typing import Final

import httpx
import trio

from kvfs.core.errors import UnavailableError, without_frames
from kvfs.store.rest.answer import Answer

BITE: Final = 256 * 1024  # bytes handed to the connection at a time
LARGE: Final = 64 * 1024  # bytes of a body that must not stay in memory when its connection breaks off
SLOWEST: Final = 64 * 1024  # bytes per second below which a transfer does not count as moving


class AnswerTooLongError(UnavailableError):
    """The answer is longer than any honest one."""


class Patience:
    """A deadline that moves on with the bytes."""

    def __init__(self, scope: trio.CancelScope, seconds: float) -> None:
        self._scope = scope
        scope.deadline = trio.current_time() + seconds

    def moved(self, count: int) -> None:
        """Count the bytes that went through."""
        self._scope.deadline += count / SLOWEST


class UploadStream(httpx.AsyncByteStream):
    """A body made of pieces, sent once; `size` is their length together. It takes each out of `pieces` as it goes.

    An iterator rather than a generator: one that is left half-way leaves nothing behind to be collected.
    """

    def __init__(self, pieces: list[bytes], patience: Patience) -> None:
        self.size = sum(map(len, pieces))
        pieces.reverse()
        self._pieces = pieces
        self._bites = _bites(pieces)
        self._patience = patience
        self._is_sent = False

    def let_go(self) -> None:
        """Drop what was not sent; must be called in the end.

        A connection that breaks off in the middle leaves a cycle in httpcore. It holds every frame that waited, and
        so the values that the body was made of: a cycle so young costs a moment to find.
        """
        self._pieces.clear()
        self._bites = iter(())
        if not self._is_sent and self.size >= LARGE:
            gc.collect(0)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        bite = next(self._bites, None)
        if bite is None:
            self._is_sent = True
            raise StopAsyncIteration
        self._patience.moved(len(bite))
        return bite


async def exchange(
    client: httpx.AsyncClient, prepared: httpx.Request, limit: int, patience: Patience
) -> Answer:
    """Send a request, and return one whole answer of at most `limit` bytes. Raises what `read_body` raises."""
    try:
        response = await client.send(prepared, stream=True, follow_redirects=False)
        try:
            body = await read_body(response, limit, patience)
        finally:
            try:
                await response.aclose()
            finally:
                del response.stream  # because it refers back to the response
    except httpx.HTTPError as exc:
        without_frames(exc)
        raise
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Answer(response.status_code, headers, body)


async def read_body(response: httpx.Response, limit: int, patience: Patience) -> bytes:
    """Return the body as it was before its content encoding, at most `limit` bytes of it.

    Raises `AnswerTooLongError` beyond the limit, which counts what comes out of a compressed body, and
    `UnavailableError` for an encoding that was not asked for or is damaged.
    """
    chunks = response.aiter_raw()
    try:
        return await _read(chunks, response.headers.get("content-encoding", ""), limit, patience)
    except UnavailableError:
        await response.aclose()
        with suppress(httpx.HTTPError, httpx.StreamError):  # runs into the closed connection, and so ends
            async for _ in chunks:
                pass
        raise


async def _read(chunks: AsyncIterator[bytes], encoding: str, limit: int, patience: Patience) -> bytes:
    inflate = _inflater(encoding)
    body, size = BytesIO(), 0  # hands its bytes out in the end without copying them
    async for chunk in chunks:
        patience.moved(len(chunk))
        size += body.write(_inflated(inflate, chunk, limit + 1 - size) if inflate else chunk)
        if size > limit:
            raise AnswerTooLongError(f"the answer is longer than {limit} bytes")
    if inflate and not inflate.eof and size:
        raise UnavailableError("the compressed answer ends too early")
    return body.getvalue()


def _bites(pieces: list[bytes]) -> Iterator[bytes]:
    """Yield the pieces, the last first, cut and joined to bites, and take them out of the list."""
    gathered: list[bytes] = []
    size = 0
    while pieces:
        piece = pieces.pop()
        if size + len(piece) > BITE and gathered:
            yield b"".join(gathered)
            gathered, size = [], 0
        if len(piece) > BITE:
            view = memoryview(piece)
            yield from (bytes(view[start : start + BITE]) for start in range(0, len(piece), BITE))
        else:
            gathered.append(piece)
            size += len(piece)
    if gathered:
        yield b"".join(gathered)


def _inflater(encoding: str) -> "zlib._Decompress | None":
    if encoding.strip().lower() in ("", "identity"):
        return None
    if encoding.strip().lower() in ("gzip", "x-gzip"):
        return zlib.decompressobj(wbits=31)
    # A list of encodings is a bomb within a bomb, and nothing but gzip was asked for.
    raise UnavailableError("the answer has a content encoding that was not asked for")


def _inflated(inflate: "zlib._Decompress", chunk: bytes, room: int) -> bytes:
    try:
        return inflate.decompress(chunk, room)
    except zlib.error as exc:
        raise UnavailableError("the compressed answer is damaged") from exc
