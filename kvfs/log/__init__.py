"""Bytes on the disk: the log of records, files of large contents, the reserve. They know no key."""
