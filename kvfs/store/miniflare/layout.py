"""The file names of miniflare's namespaces below its state directory, and nothing else.

    STATE/v3/kv/miniflare-KVNamespaceObject/HASH.sqlite   rows: key, blob, expiration, metadata
    STATE/v3/kv/NAME/blobs/BLOB                            one immutable file a value

The source is miniflare's own code, `keyvalue.worker.ts`, `blob.worker.ts` and the Durable Object ids of workerd.
"""

import hashlib
import hmac
import re
import secrets
from pathlib import Path
from typing import Final
from urllib.parse import quote

OBJECTS: Final = "miniflare-KVNamespaceObject"
_ID_KEY: Final = hashlib.sha256(OBJECTS.encode()).digest()
_RANDOM_BYTES: Final = 32
_TIME_BYTES: Final = 8


def kv_directory(state: Path) -> Path:
    """Return the directory of all namespaces below a state directory (`.wrangler/state`, or `--persist-to`)."""
    return state / "v3" / "kv"


def is_state(directory: Path) -> bool:
    """True if `directory` is laid out as a state directory."""
    return (directory / "v3").is_dir()


def database_file(state: Path, namespace: str) -> Path:
    """Return the SQLite file of a namespace. Its name is the id that workerd gives the namespace's Durable Object."""
    first = hmac.digest(_ID_KEY, namespace.encode(), "sha256")[:16]
    check = hmac.digest(_ID_KEY, first, "sha256")[:16]
    return kv_directory(state) / OBJECTS / f"{(first + check).hex()}.sqlite"


def blob_directory(state: Path, namespace: str) -> Path:
    """Return the directory of a namespace's values."""
    name = quote(sanitised(namespace), safe="!'()*-._~")  # as encodeURIComponent
    return kv_directory(state) / name / "blobs"


def new_blob_id(now: float) -> str:
    """Return a name for a new value: 32 random bytes and the time in milliseconds, in hex."""
    return secrets.token_hex(_RANDOM_BYTES) + int(now * 1000).to_bytes(_TIME_BYTES, "big").hex()


def is_blob_id(text: str) -> bool:
    """True if `text` can be the name of a value's file: it must not lead out of its directory."""
    return re.fullmatch(r"[0-9a-zA-Z]{1,255}", text) is not None


def sanitised(text: str) -> str:
    """Return a namespace id as miniflare makes it fit for a file's name."""
    for _ in range(2):
        text = re.sub(r"(^|/|\\)(\.+)(/|\\|$)", lambda found: found[1] + "_" * len(found[2]) + found[3], text)
    text = re.sub(r"[?<>*\"'^/\\:|\x00-\x1f\x80-\x9f]", "_", text)
    if re.fullmatch(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", text, re.IGNORECASE):
        text = "_"
    text = re.sub(r"^[ /\\]+", lambda found: "_" * len(found[0]), text)
    text = re.sub(r"[ /\\]+$", lambda found: "_" * len(found[0]), text)
    return text[:255]


def namespaces_on_disk(state: Path) -> list[str]:
    """Return the ids of the namespaces that have values on disk, as far as their names tell them."""
    try:
        entries = sorted(kv_directory(state).iterdir())
    except OSError:
        return []
    return [path.name for path in entries if (path / "blobs").is_dir()]
