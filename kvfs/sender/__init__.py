"""Journal → store: what is pending is sent, repeated, compared and set aside."""
