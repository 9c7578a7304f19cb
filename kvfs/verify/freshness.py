"""Checks of time: how long a read stays stale after a change, and what the headers say of the limit."""

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from kvfs.verify.findings import Seen, check
from kvfs.verify.wire import PAUSES, Lab, Reply, rows_of

TIMED: Final = ("read after a write", "read after a delete", "listing after a write")
MOST: Final = 60.0  # seconds: what kvfs waits by default before it believes a read again
FRESH: Final = 2  # good answers in a row, because copies of the data may differ


@check(TIMED[0], f"stale for at most {MOST:.0f} s")
async def after_write(lab: Lab) -> Seen:
    key = lab.key("fresh")
    await lab.put(key, b"one")
    await lab.until(lambda: lab.get(key), lambda reply: reply.body == b"one")
    await lab.put(key, b"two")
    return await _stale(lambda: lab.get(key), lambda reply: reply.body == b"two")


@check(TIMED[1], f"stale for at most {MOST:.0f} s")
async def after_delete(lab: Lab) -> Seen:
    key = lab.key("deleted")
    await lab.put(key, b"one")
    await lab.until(lambda: lab.get(key), lambda reply: reply.body == b"one")
    await lab.delete(key)
    return await _stale(lambda: lab.get(key), lambda reply: reply.status == 404)


@check(TIMED[2], f"stale for at most {MOST:.0f} s")
async def listed(lab: Lab) -> Seen:
    key = lab.key("listed")
    await lab.put(key, b"one")
    return await _stale(lambda: lab.list(key), lambda reply: key in rows_of(reply))


async def _stale(ask: Callable[[], Awaitable[Reply]], good: Callable[[Reply], bool]) -> Seen:
    """The seconds from now to the last stale answer, before `FRESH` good ones in a row."""
    began = trio.current_time()
    stale, fresh = 0.0, 0
    for pause in PAUSES:
        while fresh < FRESH and good(await ask()):
            fresh += 1
        if fresh == FRESH:
            break
        fresh, stale = 0, trio.current_time() - began
        await trio.sleep(pause)
    return Seen(f"{stale:.1f} s", fresh == FRESH and stale <= MOST, stale)


@check("headers about the limit", "noted: kvfs keeps to them where they are sent")
async def headers(lab: Lab) -> Seen:
    reply = await lab.list(lab.key("headers-"))
    names = ("ratelimit", "ratelimit-policy", "cf-ray")
    told = [f"{name}: {reply.headers[name]}" for name in names if name in reply.headers]
    return Seen("; ".join(told) or "none", None)
