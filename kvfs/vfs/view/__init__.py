"""One view of a key: pending changes over caches over the store."""
