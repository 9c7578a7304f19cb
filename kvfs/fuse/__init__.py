"""The kernel's face: unpack, one call, pack. It decides nothing."""
