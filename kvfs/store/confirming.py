"""Confirming: a Store around a Store that asks again for a value whose answer does not look like one.

The answer to a single get is the bare value: nothing in it tells a value from the page of a proxy with status 200.
The API declares values as `application/octet-stream`, so an answer of another type is doubted. Text is
then asked for in bulk, where it comes in the API's own envelope; binary data, and text that is too large for that,
is asked for until two answers agree.
A page that claims to be an octet-stream cannot be told from a value by anybody.
"""

from collections import Counter
from contextlib import suppress
from typing import Final

from kvfs.core.content import is_text
from kvfs.core.errors import BodyTooLargeError, NotTextError, UnavailableError
from kvfs.core.model import Key, NamespaceId, ValueRead
from kvfs.store.base import Store
from kvfs.store.wrapper import Around

ANSWERS: Final = 10  # that may all differ before it is given up
LARGE: Final = 1024 * 1024  # bytes; no page of a proxy has so many
TRUSTED: Final = 8  # values of a type that were confirmed, none of them in vain, before it is doubted no more


class Confirming(Around):
    """Confirms values that came as something else than an octet-stream.

    A server that declares all its values so is believed after the first ones; one answer that was none ends that.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._confirmed: Counter[str] = Counter()

    async def get(self, namespace: NamespaceId, key: Key) -> ValueRead | None:
        """See `Store`."""
        read = await super().get(namespace, key)
        if read is None or not read.declared_as or self._confirmed[read.declared_as] >= TRUSTED:
            return read
        for _ in range(ANSWERS):
            is_value = not is_text(read.value)
            if not is_value:
                try:
                    with suppress(NotTextError, KeyError):  # then it was not the value
                        entry = (await self.bulk_get(namespace, [key]))[key]
                        return None if entry is None else ValueRead(entry.value, entry.expiration, False)
                except BodyTooLargeError:
                    if len(read.value) <= LARGE:
                        raise
                    is_value = True
            again = await super().get(namespace, key)
            if again is None or not again.declared_as:
                return again
            if is_value and again.value == read.value:
                self._confirmed[read.declared_as] += 1
                return again
            self._confirmed[read.declared_as] = -TRUSTED * ANSWERS  # it is the type of something else, too
            read = again
        raise UnavailableError("get: every answer is another: a proxy answers in the place of the API")
