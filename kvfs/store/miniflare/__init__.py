"""Namespaces of `wrangler dev`: its state on disk, and the API of its local explorer."""
