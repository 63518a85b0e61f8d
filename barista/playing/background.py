"""Play a snapshot in another process, while this one has something better to do.

The process is `python -m barista.play`, with one thread and low priority: training keeps the
machine.  It lives no longer than this one: it holds the other end of its stdin.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil

from barista.playing.episodes import Evaluation, PlayError

if TYPE_CHECKING:
    from pathlib import Path

    from barista.playing.episodes import Terms

NICENESS = 10  # a tenth of a processor that training keeps busy, all of an idle one


class BackgroundPlay:
    """One evaluation under way.  Not thread-safe.

    Args:
        snapshot: Folder of what is played, which must stay as it is.
        terms: Of the evaluation.
        files: Folder for the process's report and its complaints.
    """

    def __init__(self, snapshot: Path, terms: Terms, files: Path) -> None:
        self._report, self._complaints = files / "report.json", files / "stderr.txt"
        self._report.unlink(missing_ok=True)
        paths = [os.path.abspath(path or ".") for path in sys.path]  # noqa: PTH100 - of any kind
        with self._complaints.open("wb") as complaints:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "barista.play", str(snapshot), *_options(terms)),
                    *("--no-random", "--embedded", "--json", str(self._report)),
                ],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=complaints,
                start_new_session=True,  # Ctrl-C is for this process
            )
        with suppress(psutil.NoSuchProcess):
            psutil.Process(self._process.pid).nice(NICENESS)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def result(self) -> Evaluation | None:
        """Return what the network has reached, None while it plays.

        Raises:
            PlayError: If the process has ended without a report; says why.
        """
        code = self._process.poll()
        if code is None:
            return None
        self.stop()
        try:
            return Evaluation.from_json(json.loads(self._report.read_text())["network"])
        except (OSError, ValueError, KeyError) as error:
            raise PlayError(self._last_words() or f"it ended with exit code {code}") from error

    def wait(self, timeout_s: float) -> None:
        """Wait for its end, but no longer than that."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)

    def stop(self) -> None:
        """End it, if it still plays."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.kill()
        self._process.wait()

    def _last_words(self) -> str:
        with suppress(OSError):
            lines = self._complaints.read_text(errors="replace").strip().splitlines()
            return lines[-1] if lines else ""
        return ""


def _options(terms: Terms) -> list[str]:
    given = {
        "--game": terms.game,
        "--episodes": terms.episodes,
        "--seed": terms.seed,
        "--protocol": terms.protocol,
        "--epsilon": terms.epsilon,
    }
    return [
        word for name, value in given.items() if value is not None for word in (name, str(value))
    ]
