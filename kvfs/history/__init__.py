"""Undo: values that were overwritten or deleted through the mount, for a while. Losing it loses no change."""
