"""How the parts of a worker's cycle follow one another: in turn, or at once.

In turn, one thread acts, draws, computes and exchanges, and the same seed gives the same weights.

At once, the worker's own thread computes gradients, chooses actions and writes down what came of
them.  Meanwhile

* the games step in the emulator's threads: the actions of one step are sent before the gradient
  and what came of them is received after it, so they were chosen a gradient earlier;
* a helper draws the next minibatch, which therefore knows neither the newest steps nor the newest
  priorities;
* a messenger pushes gradient k while gradient k + 1 is computed, which is thus of weights one push
  older: every gradient is one version staler than in turn, so a server that rejects by staleness
  has to allow for one more.

Who touches what: the replay belongs to the helper from the moment a minibatch is asked for until it
is there, and to the worker's thread otherwise.  The messenger has arrays of its own, so weights
change only between gradients.  An error in a thread is raised where its result is asked for.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from barista.actor import Actor, Epsilon
    from barista.config import AgentConfig
    from barista.timings import Timings
    from replay import Batch, ReplayBuffer


class Pipeline(Protocol):
    """The parts of a cycle that may happen beside the computation.  Not thread-safe."""

    overlaps: bool

    def act(self, epsilon: Epsilon) -> int:
        """Have every copy of the game take a step; return the agent steps that were stored."""

    def sample(self, batch_size: int, beta: float) -> Batch:
        """Return the minibatch of the next gradient."""

    def update_priorities(self, ids: NDArray[np.int64], td_errors: NDArray[np.float32]) -> None:
        """Write the priorities of a minibatch back."""

    def send(self, call: Callable[[], Any]) -> None:
        """Have `call` made; whatever was sent before it must have been answered."""

    def answer(self) -> Any:
        """Return what the call that was sent has returned, None where none was; raise its error."""

    def halt(self, stop: threading.Event) -> None:
        """Give up a call that has not been answered; `stop` ends it where it waits."""

    def close(self) -> None:
        """End the threads; the pipeline must not be used afterwards."""


def overlaps(config: AgentConfig, threads: int) -> bool:
    """Say whether a worker with so many threads does things at once.

    With one it cannot.  With two the engine makes more of the second one: 20.0 gradients of Pong a
    second in turn, and 17.8 at once, on two cores without AMX.
    """
    return config.overlap == "on" or (config.overlap == "auto" and threads > 2)


class InTurn:
    """One thing after the other, in the caller's thread."""

    overlaps = False

    def __init__(self, actor: Actor, replay: ReplayBuffer) -> None:
        self._actor, self._replay = actor, replay
        self._call: Callable[[], Any] | None = None

    def act(self, epsilon: Epsilon) -> int:
        """See `Pipeline`."""
        return self._actor.act(epsilon)

    def sample(self, batch_size: int, beta: float) -> Batch:
        """See `Pipeline`."""
        return self._replay.sample(batch_size, beta)

    def update_priorities(self, ids: NDArray[np.int64], td_errors: NDArray[np.float32]) -> None:
        """See `Pipeline`."""
        self._replay.update_priorities(ids, td_errors)

    def send(self, call: Callable[[], Any]) -> None:
        """See `Pipeline`; it is made when its answer is asked for."""
        self._call = call

    def answer(self) -> Any:
        """See `Pipeline`."""
        call, self._call = self._call, None
        return None if call is None else call()

    def halt(self, stop: threading.Event) -> None:  # noqa: ARG002 (nothing waits)
        """See `Pipeline`."""
        self._call = None

    def close(self) -> None:
        """See `Pipeline`."""


class AtOnce:
    """Games, draws and requests beside the caller's thread.

    Args:
        actor: steps the games.
        replay: where minibatches are drawn.
        timings: of the caller's thread; what it waits for counts as stage `wait`.
    """

    overlaps = True

    def __init__(self, actor: Actor, replay: ReplayBuffer, timings: Timings) -> None:
        self._actor, self._replay, self._timings = actor, replay, timings
        self._helper = ThreadPoolExecutor(1, "draw")
        self._messenger = ThreadPoolExecutor(1, "exchange")
        self._drawing: Future[Batch] | None = None
        self._calling: Future[Any] | None = None

    def act(self, epsilon: Epsilon) -> int:
        """See `Pipeline`: store the step that was under way, and begin the next one."""
        if not self._actor.is_stepping:
            self._actor.send(epsilon)
        with self._timings.measure("wait"):
            step = self._actor.receive()
        self._drawn()
        steps = self._actor.store(step)
        self._actor.send(epsilon)
        return steps

    def sample(self, batch_size: int, beta: float) -> Batch:
        """See `Pipeline`: the one that was being drawn; the next one is asked for."""
        if self._drawing is None:
            batch = self._replay.sample(batch_size, beta)
        else:
            self._drawn()
            batch = self._drawing.result()
        self._drawing = self._helper.submit(self._replay.sample, batch_size, beta)
        return batch

    def update_priorities(self, ids: NDArray[np.int64], td_errors: NDArray[np.float32]) -> None:
        """See `Pipeline`."""
        self._drawn()
        self._replay.update_priorities(ids, td_errors)

    def send(self, call: Callable[[], Any]) -> None:
        """See `Pipeline`."""
        assert self._calling is None
        self._calling = self._messenger.submit(call)

    def answer(self) -> Any:
        """See `Pipeline`."""
        if self._calling is None:
            return None
        with self._timings.measure("wait"):
            wait([self._calling])  # an interrupt here leaves it under way, for `halt`
        calling, self._calling = self._calling, None
        return calling.result()

    def halt(self, stop: threading.Event) -> None:
        """See `Pipeline`."""
        if self._calling is not None:
            stop.set()
            wait([self._calling])
            self._calling = None

    def close(self) -> None:
        """See `Pipeline`."""
        self._helper.shutdown()
        self._messenger.shutdown()

    def _drawn(self) -> None:
        """Wait for the helper, who then leaves the replay to us."""
        if self._drawing is not None:
            with self._timings.measure("wait"):
                wait([self._drawing])
