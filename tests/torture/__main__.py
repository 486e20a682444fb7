"""`python -m tests.torture [--ci] [ROW ...]`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from torture.run import main

sys.exit(main(sys.argv[1:]))
