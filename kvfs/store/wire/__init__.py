"""Cloudflare's JSON, both ways: used by the client and by the server."""
