"""One rank of a training that `trainer.launch` started: `python -m bm.branch JOB`."""

import sys
from pathlib import Path

from bm.branch.launch import rank

rank(Path(sys.argv[1]))
