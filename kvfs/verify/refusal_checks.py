"""Checks of refusals: the statuses and codes by which kvfs decides what becomes of a change."""

from kvfs.store import codes
from kvfs.verify.findings import Observation, check
from kvfs.verify.wire import Lab, Reply

NOWHERE = "0123456789abcdef" * 2


def _code(reply: Reply, status: int, code: int) -> Observation:
    return Observation(str(reply), (reply.status, reply.code) == (status, code))


@check("missing key", "404, 10009")
async def missing_key(lab: Lab) -> Observation:
    return _code(await lab.get(lab.key("not-there")), 404, codes.KEY_NOT_FOUND)


@check("metadata of a missing key", "404, 10009")
async def missing_metadata(lab: Lab) -> Observation:
    return _code(await lab.metadata(lab.key("not-there")), 404, codes.KEY_NOT_FOUND)


@check("missing namespace", "404, 10013")
async def missing_namespace(lab: Lab) -> Observation:
    path = f"{lab.endpoint.namespaces}/{NOWHERE}/values/x"
    return _code(await lab.endpoint.send("GET", path), 404, codes.NAMESPACE_NOT_FOUND)


@check("malformed namespace id", "400, 10011")
async def malformed_namespace(lab: Lab) -> Observation:
    path = f"{lab.endpoint.namespaces}/not-an-id/keys"
    return _code(await lab.endpoint.send("GET", path), 400, codes.BAD_NAMESPACE_ID)


@check("time to live of 59 s", "400, 10034")
async def short_ttl(lab: Lab) -> Observation:
    return _code(await lab.put(lab.key("short"), b"x", params={"expiration_ttl": 59}), 400, codes.BAD_TTL)


@check("expiration in the past", "400, 10033")
async def past(lab: Lab) -> Observation:
    return _code(await lab.put(lab.key("past"), b"x", params={"expiration": 1}), 400, codes.BAD_EXPIRATION)


@check("metadata that is no JSON", "400, 10147")
async def bad_metadata(lab: Lab) -> Observation:
    files = {"value": ("blob", b"x"), "metadata": (None, b"{")}
    reply = await lab.endpoint.send("PUT", lab.path("values", lab.key("bad")), files=files)
    return _code(reply, 400, codes.BAD_METADATA)


@check("101 keys in a bulk get", "400, 10029")
async def too_many(lab: Lab) -> Observation:
    return _code(await lab.bulk_get([lab.key(f"n{number}") for number in range(101)]), 400, codes.BULK_GET)


@check("bulk put of an object", "400")
async def no_array(lab: Lab) -> Observation:
    reply = await lab.endpoint.send("PUT", lab.path("bulk"), json={"key": "x"})
    return Observation(str(reply), reply.status == 400)
