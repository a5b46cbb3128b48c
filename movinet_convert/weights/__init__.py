"""Converted weights: safetensors files, the manifest, the store, loading and saving."""
