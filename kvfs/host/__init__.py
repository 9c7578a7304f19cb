"""This machine: its state directory, its mounts, and the socket of a daemon."""
