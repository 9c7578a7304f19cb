"""Changes that the store has not got yet: first in the log, then in memory. Losing one loses user data."""
