"""Checks of time: how long a read stays stale after a change, and what the headers say of the limit."""

from typing import Final

import trio

from kvfs.verify.findings import Observation, check
from kvfs.verify.setting import LISTED, MOST, STALE, stale
from kvfs.verify.wire import Lab

DELETED: Final = "read after a delete"
TIMED: Final = (STALE, DELETED, LISTED)


@check(STALE, f"stale for at most {MOST:.0f} s")
async def after_write(lab: Lab) -> Observation:
    found: Observation = lab.seen[STALE]
    return found


@check(DELETED, f"stale for at most {MOST:.0f} s")
async def after_delete(lab: Lab) -> Observation:
    key = lab.key("replaced")
    await lab.delete(key)
    began = trio.current_time()
    return await stale(lambda: lab.get(key), lambda reply: reply.status == 404, began)


@check(LISTED, f"stale for at most {MOST:.0f} s")
async def listed(lab: Lab) -> Observation:
    found: Observation = lab.seen[LISTED]
    return found


@check("headers about the limit", "noted: kvfs keeps to them where they are sent")
async def headers(lab: Lab) -> Observation:
    names = ("ratelimit", "ratelimit-policy", "cf-ray")
    told = [f"{name}: {lab.seen_headers[name]}" for name in names if name in lab.seen_headers]
    return Observation("; ".join(told) or "none", None)
