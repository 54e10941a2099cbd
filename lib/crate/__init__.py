"""A scale's results described as an RO-Crate 1.1, to hand them on: what each file is, what made it, and from what.

`./run_all.sh crate cpu` writes results/cpu/ro-crate-metadata.json, reads it back and checks it.
"""

from lib.crate.check import NAME, CrateError, check
from lib.crate.describe import describe, write

__all__ = ["NAME", "CrateError", "check", "describe", "write"]
