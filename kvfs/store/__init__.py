"""Stores of entries: one protocol (`base.Store`), many implementations."""
