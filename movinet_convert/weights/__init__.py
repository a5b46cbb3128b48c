"""Converted weights: the safetensors file, the manifest, the store, loading and saving."""
