"""Data moves: entries copied and compared between stores, directories and files. No mount is needed."""
