"""Changes that the store has not got yet. Losing a row in this room loses user data."""
