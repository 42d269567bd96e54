"""`python -m labeldist`: the command line."""

import sys

from labeldist.cli import main

sys.exit(main())
