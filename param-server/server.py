"""Start a parameter server: ``python param-server/server.py [SOLVER] [options]``."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # where caffe is, when not installed

from param_server.cli import main

sys.exit(main())
