"""`python -m textgen` is the command `textgen`."""

import sys

from textgen.cli import main

sys.exit(main())
