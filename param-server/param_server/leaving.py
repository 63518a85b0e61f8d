"""How a process of ours ends. Standard library only: Baristas end this way too."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import NoReturn


def leave(exit_code: int) -> NoReturn:
    """End this process at once, when what it logged and printed is out.

    The interpreter's own end unwinds daemon threads wherever they happen to be: one that is
    inside C++ code ("terminate called without an active exception") or that holds a stream's
    lock aborts the process.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(exit_code)
