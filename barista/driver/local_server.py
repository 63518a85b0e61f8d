"""A parameter server in this very process, as a driver sees one: the same store, called directly.

For serial mode and for synchronous rounds on Spark: what `server_link` reaches over a network is a
few method calls here, and nothing that a debugger could not step through.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from param_server.core import compose, working_folder
from param_server.errors import ParamServerError, SnapshotFailed
from param_server.options import Config, parser

from barista.exchange import LocalExchange
from barista.playing.evaluation import Written

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from param_server.core import Core
    from param_server.recovery import Resumed
    from param_server.wire import Model, Push, PushAnswer

    from barista.driver.interrupts import Interrupts
    from barista.playing.evaluation import Score

    Float32 = NDArray[np.float32]


class LocalServer:
    """The server's core, and what a driver asks of a server.

    `exchange` is for the main thread alone; all else may be asked beside updates of another thread.
    """

    def __init__(self, core: Core, interrupts: Interrupts) -> None:
        self._core = core
        self.exchange = _Exchange(core, interrupts)
        self.address = ""  # nobody else comes here

    @classmethod
    @contextmanager
    def open(
        cls, arguments: Sequence[str], say: Callable[[str], object], interrupts: Interrupts
    ) -> Iterator[LocalServer]:
        """Make a server; at the end what is not on disk is written.

        Args:
            arguments: The command line of a server, with `--snapshot-dir`.
            say: Takes lines for the user: where a resumed run goes on, what is damaged.
            interrupts: Ctrl-C, which must not end an update half way.

        Raises:
            UserMistake: If a file or an option cannot be used.
            SnapshotFailed: If a snapshot cannot be read or written.
        """
        config = Config(**vars(parser().parse_args(arguments)))
        assert config.snapshot_dir is not None
        with working_folder(config.snapshot_dir, keep=config.keep) as (folder, work):
            core = compose(config, folder, work, lambda resumed: _tell(resumed, say))
            core.snapshotter.start()
            try:
                yield cls(core, interrupts)
            finally:
                try:
                    core.drain()
                except SnapshotFailed as error:
                    say(f"warning: {error}")
                core.durability.close()

    @property
    def parameters(self) -> int:
        """How many are learned."""
        return self._core.store.layout.size

    def describe(self) -> str:
        """Return what the plan says."""
        return "in this process"

    def status(self) -> dict[str, Any]:
        """Return what a server's status tells."""
        return self._core.status()

    def model(self) -> Model:
        """Return a copy of the weights."""
        model = self._core.store.read(out=np.empty(self.parameters, np.float32))
        assert model is not None  # nothing was known
        return model

    def target(self) -> Model:
        """Return a copy of the target's weights."""
        target = self._core.store.read_target(out=np.empty(self.parameters, np.float32))
        assert target is not None  # nothing was known
        return target

    def update(self, push: Push, gradient: Float32) -> PushAnswer:
        """Judge a push and apply its gradient, as durable as a server's."""
        answer = self._core.store.apply(push, gradient)
        self._core.durability.acknowledge(self._core.store)
        return answer

    def snapshot(self) -> Written | None:
        """Have a snapshot written; None if none can be, the status says why."""
        try:
            written = self._core.snapshotter.now()
        except ParamServerError:
            return None
        return Written(Path(str(written["path"])), int(written["epoch"]), int(written["version"]))

    def report(self, score: Score) -> None:
        """Mark the snapshot of a version with its score, so that the best is kept."""
        result = score.to_json()
        result["return_se"] = result["return_se"] or 0.0  # of one episode nothing better is known
        self._core.snapshotter.mark_evaluated(result.pop("version"), **result)

    def incident(self, text: str) -> None:
        """Nobody could look: there is no dashboard."""

    @contextmanager
    def kept_in_touch(self) -> Iterator[None]:
        """Nobody else waits for this process: nothing to do."""
        yield

    def revive(self) -> None:
        """Nothing that could die alone."""

    def finish(self, snapshots: Path) -> Path | None:  # noqa: ARG002 (the server writes there)
        """Have the final snapshot written; None if it cannot be."""
        written = self.snapshot()
        return None if written is None else written.path


class _Exchange(LocalExchange):
    """Pushes are as durable as a server's, and whole."""

    def __init__(self, core: Core, interrupts: Interrupts) -> None:
        super().__init__(core.store)
        self._core, self._interrupts = core, interrupts

    def push(
        self, push: Push, gradient: Float32, out: Float32, /
    ) -> tuple[PushAnswer, Model | None]:
        with self._interrupts.held_back():
            answered = super().push(push, gradient, out)
            self._core.durability.acknowledge(self._core.store)
        return answered


def _tell(resumed: Resumed, say: Callable[[str], object]) -> None:
    for warning in resumed.warnings:
        say(f"warning: {warning}")
    say(resumed.sentence)
