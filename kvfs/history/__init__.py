"""What was overwritten or deleted through the mount and was at hand, for a while: undo. Losing it loses no change."""
