"""The limits of Workers KV, one constant a line, with the page each comes from.

Pages are named by their path below developers.cloudflare.com.
"""

from typing import Final

KEY_BYTES: Final = 512  # /kv/platform/limits: UTF-8 bytes of a key
VALUE_BYTES: Final = 26_214_400  # /kv/platform/limits: 25 MiB
METADATA_BYTES: Final = 1024  # /kv/platform/limits: bytes of serialised JSON
TITLE_CHARS: Final = 512  # /api/resources/kv: namespace title
FORBIDDEN_KEYS: Final = frozenset({"", ".", ".."})  # /kv/api/write-key-value-pairs
EXPIRATION_SECONDS: Final = 60  # /kv/api/write-key-value-pairs: at least this far ahead
BULK_PAIRS: Final = 10_000  # /kv/platform/limits: keys in one bulk write or delete
BULK_BYTES: Final = 100_000_000  # /kv/platform/limits: one bulk request, encoded
BULK_VALUE_CHARS: Final = 26_214_400  # /api/resources/kv: a bulk value as sent (base64 included)
BULK_GET_KEYS: Final = 100  # /kv/platform/limits
BULK_GET_BYTES: Final = 25 * 1024 * 1024  # /kv/api/read-key-value-pairs: beyond it 413
LIST_KEYS: Final = 1000  # /kv/api/list-keys: most keys a page
LIST_KEYS_MIN: Final = 10  # /api/resources/kv: least `limit` accepted
NAMESPACES_PAGE: Final = 1000  # /api/resources/kv: most namespaces a page
NAMESPACES: Final = 1000  # /kv/platform/limits: namespaces an account
RATE_REQUESTS: Final = 1200  # /fundamentals/api/reference/limits: requests per window, all API use together
RATE_SECONDS: Final = 300  # /fundamentals/api/reference/limits: the window; exceeding it blocks for as long
