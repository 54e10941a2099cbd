"""The authors' released code beside ours, step by step: `python -m benchmarks.released --code DIR`."""
