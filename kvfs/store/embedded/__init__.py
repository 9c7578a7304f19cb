"""The embedded store: one SQLite file that behaves like Workers KV."""
