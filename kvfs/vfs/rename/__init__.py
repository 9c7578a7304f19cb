"""Rename of a file, and of a directory with everything below it."""
