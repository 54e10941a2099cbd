"""Ratios against a named peer, measured in the same run: `python -m benchmarks.<name>`; the last line is JSON."""

from lib import config


def kept(network: str) -> bool:
    """Whether a trained network of `cpu` is in the cache or ships with the results: none is trained for a benchmark."""
    in_cache = (config.cache_dir("cpu") / "networks").glob(f"{network}-seed0-*/weights.safetensors")
    return any(in_cache) or (config.results_dir("cpu") / "networks" / f"{network}-seed0.safetensors").exists()
