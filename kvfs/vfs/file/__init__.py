"""Open files: their bytes, and how these are recorded."""
