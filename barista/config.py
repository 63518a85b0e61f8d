"""What a worker is told: one frozen record of hyper-parameters, checked once.

The parsers of `ddq.py` and of `python -m barista` are built from the fields: `batch_size` is typed
as `--batch-size`, its help is the field's.  This module decides defaults and ranges; it reads no
command line and no file.

Schedules count what all workers do together, so that the same record describes a run with one
worker and with many.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class ConfigError(ValueError):
    """An option has a value that cannot work; the message is one line that names the option."""


def _option(default: Any, explained: str) -> Any:
    return field(default=default, metadata={"help": explained})


@dataclass(frozen=True)
class AgentConfig:
    """The hyper-parameters of a run, the same for each of its workers.

    Raises:
        ConfigError: Naming the first option that is out of range, as the user typed it.
    """

    game: str = _option("ALE/Pong-v5", "Gymnasium id of the game")
    seed: int = _option(
        0, "seed of weights, games, exploration and replay; each worker derives its own"
    )
    workers: int = _option(1, "workers that share the replay capacity and the warm-up")
    num_envs: int = _option(8, "copies of the game that one worker plays in step")
    batch_size: int = _option(32, "transitions in a minibatch")
    n_step: int = _option(3, "steps a transition spans")
    gamma: float = _option(0.99, "discount per step")
    double: bool = _option(
        True, "double Q-learning: the online network selects, the target evaluates"
    )
    replay_capacity: int = _option(100_000, "transitions held, all workers together")
    warmup: int = _option(10_000, "agent steps before the first gradient, all workers together")
    steps_per_update: int = _option(4, "agent steps that a worker takes for one gradient")
    epsilon_start: float = _option(
        1.0, "exploration rate during the warm-up; falls in a line from there"
    )
    epsilon_end: float = _option(0.02, "exploration rate once it has fallen")
    epsilon_steps: int = _option(
        100_000, "agent steps after the warm-up, all workers together, in which it falls"
    )
    target_period: int = _option(500, "updates between two refreshes of the target network")
    push_period: int = _option(1, "gradients whose mean is one push")
    pull_period: int = _option(1, "pushes between two pulls of the weights")
    reward_clip: bool = _option(True, "clip rewards to [-1, 1] for learning")
    device: str = _option("auto", "auto, cpu or cuda:N")
    wire_dtype: str = _option(
        "float32", "of gradients and weights on their way: float32, or bfloat16 (half the bytes)"
    )

    def __post_init__(self) -> None:
        self._check_types()
        for name in _AT_LEAST_ONE:
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in ("gamma", "epsilon_start", "epsilon_end"):
            self._require(name, 0 <= getattr(self, name) <= 1, "between 0 and 1")
        for name in ("seed", "epsilon_steps"):
            self._require(name, getattr(self, name) >= 0, "at least 0")
        self._require("game", bool(self.game.strip()), "a Gymnasium id")
        self._require("n_step", self.n_step <= 255, "at most 255")
        self._require(
            "device", re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device), "auto, cpu or cuda:N"
        )
        self._require("wire_dtype", self.wire_dtype in _WIRE_DTYPES, "float32 or bfloat16")
        smallest = self.workers * self.num_envs * self.n_step
        self._require(
            "replay_capacity",
            self.replay_capacity >= smallest,
            f"at least {smallest}: {self.workers} workers × {self.num_envs} games × "
            f"{self.n_step} steps",
        )
        # Windows of n steps are complete after n steps of each game: before that, nothing to draw.
        self._require(
            "warmup",
            self.warmup >= smallest,
            f"at least {smallest}: {self.workers} workers × {self.num_envs} games × "
            f"{self.n_step} steps",
        )

    @property
    def replay_share(self) -> int:
        """Transitions that one worker's replay buffer holds."""
        return self.replay_capacity // self.workers

    @property
    def warmup_share(self) -> int:
        """Agent steps that one worker takes before its first gradient."""
        return math.ceil(self.warmup / self.workers)

    def seed_for(self, worker: str) -> int:
        """Return a worker's own seed, of 31 bits: of its games, its exploration and its draws."""
        digest = hashlib.sha256(f"{self.seed}/{worker}".encode()).digest()
        return int.from_bytes(digest[:4], "big") >> 1

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> AgentConfig:
        """Return the record that `to_json` has written; fields it lacks have their defaults.

        Raises:
            ConfigError: For a field that does not exist, or a value that cannot work.
        """
        known = {each.name for each in fields(cls)}
        for name in document:
            if name not in known:
                raise ConfigError(f"there is no option {option_name(name)}")
        return cls(**document)

    def _check_types(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            expected = type(each.default)
            if expected is float and type(value) is int:
                object.__setattr__(self, each.name, float(value))
            elif type(value) is not expected:
                self._require(each.name, False, _TYPE_NAMES[expected])

    def _require(self, name: str, holds: object, expected: str) -> None:
        if not holds:
            raise ConfigError(
                f"{option_name(name)} must be {expected}, not {getattr(self, name)!r}"
            )


_AT_LEAST_ONE = (
    "workers",
    "num_envs",
    "batch_size",
    "n_step",
    "steps_per_update",
    "target_period",
    "push_period",
    "pull_period",
)
_WIRE_DTYPES = ("float32", "bfloat16")
_TYPE_NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}

# Where a game differs from the Atari defaults above.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "ddq/Snake-v0": {
        "replay_capacity": 50_000,
        "warmup": 2_000,
        # Steps are cheap here and gradients are not: more of the board is seen for each.
        "steps_per_update": 8,
        "gamma": 0.95,  # an apple is ten steps away, not a hundred
        "epsilon_steps": 40_000,
        "epsilon_end": 0.05,
        "target_period": 250,
    },
}


def defaults_for(game: str, **changes: Any) -> AgentConfig:
    """Return a game's defaults, with `changes` to single fields.

    Raises:
        ConfigError: If a change has a value that cannot work, or names no field.
    """
    return AgentConfig.from_json({**_DEFAULTS.get(game, {}), "game": game, **changes})


def option_name(name: str) -> str:
    """Return a field's name as the user types it."""
    return "--" + name.replace("_", "-")
