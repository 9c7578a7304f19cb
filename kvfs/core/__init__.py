"""Rules. No I/O, no clock, no await, nothing from outside the standard library."""
