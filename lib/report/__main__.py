"""`python -m lib.report`."""

import sys

from lib.report import main

sys.exit(main())
