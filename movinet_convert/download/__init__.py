"""Getting the released checkpoints: addresses, HTTP, a cache that is checked."""
