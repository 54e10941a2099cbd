"""Whether a scale's results follow from its records, and come out again when they are made again.

`./run_all.sh verify cpu`, or `python -m lib.verify --scale cpu`: docs/reproducibility.md says what is checked.
"""

from lib.verify.checks import DIFFERS, OK, UNTRACED, Finding, check, summary
from lib.verify.rerun import against, compare, is_measured, rerun
