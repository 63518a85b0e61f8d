"""Where things are: the repository, and the folder of logs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def repository() -> Path:
    """Return the repository's root, or the current folder where there is no repository."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "param-server").is_dir() else Path.cwd()


def logs_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return ``$DDQ_ROOT/logs``, without DDQ_ROOT the repository's."""
    return Path(environ.get("DDQ_ROOT") or repository()) / "logs"
