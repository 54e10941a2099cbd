"""Whether a scale's results follow from its records, and come out again when they are made again.

`./run_all.sh verify cpu`, or `python -m lib.verify --scale cpu`: docs/reproducibility.md says what is checked.
"""

from lib.verify.checks import check
from lib.verify.findings import DIFFERS, OK, UNTRACED, Finding, told
from lib.verify.numbers import compare, is_measured
from lib.verify.rerun import rerun, twice

__all__ = ["DIFFERS", "OK", "UNTRACED", "Finding", "check", "compare", "is_measured", "rerun", "told", "twice"]
