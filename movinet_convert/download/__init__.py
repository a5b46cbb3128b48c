"""Download the released checkpoints: URLs, HTTP, and a cache with verified digests."""
