"""The prices of Workers KV (paid plan, developers.cloudflare.com/kv/platform/pricing)."""

from collections.abc import Mapping
from typing import Final

BILLED: Final[Mapping[str, float]] = {"read": 0.5e-6, "written": 5e-6, "deleted": 5e-6, "lists": 5e-6}
"""Dollars of a key that is read, written or deleted, and of a request that lists."""


def dollars(billed: Mapping[str, float]) -> float:
    """Return the price of keys `read`, `written` and `deleted`, and of `lists`."""
    return sum(billed.get(kind, 0) * price for kind, price in BILLED.items())
