"""The REST face: Cloudflare's routes over any `Store`. It decides nothing."""
