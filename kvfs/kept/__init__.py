"""Facts that this machine keeps of keys beside their values: modes, times, what was shown, and made directories."""
