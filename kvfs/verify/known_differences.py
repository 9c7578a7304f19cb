"""The differences of wrangler's local explorer from the API that kvfs knows of, and how kvfs copes with each."""

from typing import Final

_CODE: Final = "only the words of an error differ"

KNOWN: Final[dict[str, str]] = {
    "creating a namespace": "its namespaces are the bindings of the Worker; kvfs makes none",
    "metadata of one key": "no such call: kvfs takes metadata from the listing",
    "expiration_ttl of a put": "a single put ignores it: kvfs sends what expires in a bulk put",
    "expiration of a put": "a single put ignores it: kvfs sends what expires in a bulk put",
    "bulk put": "wrangler 4.86 has none: kvfs puts values singly",
    "bulk put of odd keys": "wrangler 4.86 has none: kvfs puts values singly",
    "empty bulk put": "wrangler 4.86 has none: kvfs puts values singly",
    "bulk delete": "wrangler 4.86 has none: kvfs deletes keys singly",
    "bulk get": "it answers values alone: kvfs takes metadata from the listing",
    "bulk get of a binary value": "it decodes binary values lossily: kvfs reads values singly",
    "missing namespace": "it makes a namespace of any id: kvfs uses only those that are listed",
    "malformed namespace id": "it makes a namespace of any id: kvfs uses only those that are listed",
    "missing key": _CODE,
    "metadata of a missing key": "no such call: kvfs takes metadata from the listing",
    "time to live of 59 s": "a single put ignores it",
    "expiration in the past": "a single put ignores it",
    "metadata that is no JSON": _CODE,
    "101 keys in a bulk get": _CODE,
}
