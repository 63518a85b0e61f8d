"""What changes as a run goes on: how much is explored, and how far priorities are corrected.

Schedules count the agent steps of all workers together, from the end of the warm-up on; during it
actions are drawn by chance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from barista import dqn

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from barista.config import AgentConfig

    Float64 = NDArray[np.float64]

_LADDER_BASE, _LADDER_EXPONENT = 0.4, 7.0


class Schedules:
    """The schedules of one worker.

    Args:
        config: of the run.
        ordinal: of the worker among those of the run, from 0; beyond them, they begin again.
    """

    def __init__(self, config: AgentConfig, ordinal: int = 0) -> None:
        self._config = config
        first = ordinal % config.workers * config.num_envs
        rates = ladder(config.workers * config.num_envs)
        self._rungs = rates[first : first + config.num_envs]  # [N]

    def epsilon(self, steps: int) -> float | Float64:
        """Return the exploration rate of all copies, or of each, float64 [N], on a ladder.

        Args:
            steps: agent steps of all workers, from the first of the warm-up.
        """
        config = self._config
        beyond = steps - config.warmup
        if config.epsilon_ladder and beyond >= 0:
            return self._rungs
        return dqn.linear_schedule(
            beyond,
            start=config.epsilon_start,
            end=config.epsilon_end,
            duration=config.epsilon_steps,
        )

    def beta(self, steps: int) -> float:
        """Return the exponent β of the importance weights, which ends at 1.

        Schaul et al., 2016, section 3.4.

        Args:
            steps: See `epsilon`.
        """
        return dqn.linear_schedule(
            steps - self._config.warmup,
            start=self._config.priority_beta,
            end=1.0,
            duration=self._config.priority_beta_steps,
        )


def ladder(copies: int) -> Float64:
    """Return the exploration rate of each of N copies of the game: float64 [N].

    εᵢ = ε^(1 + α i / (N − 1)) with ε = 0.4 and α = 7 (Horgan et al., 2018, section 4.1).
    """
    place = np.arange(copies) / max(copies - 1, 1)
    return _LADDER_BASE ** (1.0 + _LADDER_EXPONENT * place)
