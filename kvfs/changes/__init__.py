"""Changes in memory: their rules, their records, the newest of each key; no I/O."""
