"""The file system of POSIX: one view of pending changes, caches and store. No pyfuse3, no httpx, no SQL."""
