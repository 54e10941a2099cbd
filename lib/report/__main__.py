"""`python -m lib.report`."""

import sys

from lib.report.command import main

sys.exit(main())
