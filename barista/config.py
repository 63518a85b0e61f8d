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


def _option(default: Any, explained: str, **words: Any) -> Any:
    """Return a field; `words` may be typed in place of values."""
    return field(default=default, metadata={"help": explained, "words": words})


@dataclass(frozen=True)
class AgentConfig:
    """The hyper-parameters of a run, the same for each of its workers.

    Raises:
        ConfigError: Naming the first option that is out of range, as the user typed it.
    """

    game: str = _option("ALE/Pong-v5", "Gymnasium id of the game")
    agent: str = _option("ddq", "preset of the options below: ddq, dqn, rainbow or apex")
    protocol: str = _option(
        "ddq", "rules of Atari games: nature (2015), ale (Machado et al., 2018), ddq (between them)"
    )
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
    dueling: bool = _option(False, "dueling network: value and advantages apart")
    quantiles: int = _option(
        1, "of the return's distribution that the network tells for each action; 1: its mean alone"
    )
    loss: str = _option("huber", "of TD errors: huber (clipped errors) or squared")
    value_rescaling: bool = _option(
        False, "learn rescaled values instead of clipping rewards (needs --no-reward-clip)"
    )
    prioritised: bool = _option(False, "draw transitions by their TD errors, not uniformly")
    priority_exponent: float = _option(0.6, "how far |TD error| decides what is drawn; 0: not")
    priority_beta: float = _option(
        0.4, "how far importance weights correct for that at first; rises in a line to 1"
    )
    priority_beta_steps: int = _option(
        1_000_000, "agent steps after the warm-up, all workers together, in which it rises"
    )
    replay_capacity: int = _option(100_000, "transitions held, all workers together")
    replay_dir: str = _option("", "folder that holds the replay, for one larger than memory")
    compress_replay: bool = _option(False, "keep frames compressed: less memory, slower draws")
    replay_to: str = _option("", "folder that the replay's episodes are written to at the end")
    replay_from: str = _option("", "folder of such episodes, to begin with a replay that has them")
    warmup: int = _option(10_000, "agent steps before the first gradient, all workers together")
    steps_per_update: int = _option(4, "agent steps that a worker takes for one gradient")
    epsilon_start: float = _option(
        1.0, "exploration rate during the warm-up; falls in a line from there"
    )
    epsilon_end: float = _option(0.02, "exploration rate once it has fallen")
    epsilon_steps: int = _option(
        100_000, "agent steps after the warm-up, all workers together, in which it falls"
    )
    epsilon_ladder: bool = _option(
        False, "each copy of the game explores at a rate of its own, from 0.4 down to 0.0007"
    )
    target_period: int = _option(500, "updates between two refreshes of the target network")
    push_period: int = _option(
        1,
        "gradients whose mean is one push; auto: as many as keep exchange within a fifth of a "
        "worker's time",
        auto=0,
    )
    pull_period: int = _option(1, "pushes between two pulls of the weights")
    reward_clip: bool = _option(True, "clip rewards to [-1, 1] for learning")
    overlap: str = _option(
        "auto", "act, draw and exchange while a gradient is computed: auto, on or off"
    )
    device: str = _option("auto", "auto, cpu or cuda:N")
    precision: str = _option(
        "auto",
        "of products: float32, tf32, bf16, bf16-all, or auto, the engine's own (DDQ_PRECISION)",
    )
    wire_dtype: str = _option(
        "float32", "of gradients and weights on their way: float32, or bfloat16 (half the bytes)"
    )

    def __post_init__(self) -> None:
        self._check_types()
        for name in _AT_LEAST_ONE:
            self._require(name, getattr(self, name) >= 1, "at least 1")
        for name in _SHARES:
            self._require(name, 0 <= getattr(self, name) <= 1, "between 0 and 1")
        for name in ("seed", "epsilon_steps", "priority_beta_steps"):
            self._require(name, getattr(self, name) >= 0, "at least 0")
        self._require("push_period", self.push_period >= 0, "at least 1, or auto")
        self._require("game", bool(self.game.strip()), "a Gymnasium id")
        self._require("n_step", self.n_step <= 255, "at most 255")
        self._require(
            "device", re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device), "auto, cpu or cuda:N"
        )
        for name, choices in CHOICES.items():
            self._require(name, getattr(self, name) in choices, _either(choices))
        self._require("quantiles", self.quantiles <= 1000, "at most 1000")
        if self.value_rescaling and self.reward_clip:
            raise ConfigError(
                "--value-rescaling stands in for clipped rewards: add --no-reward-clip"
            )
        if self.quantiles > 1 and self.loss == "squared":
            raise ConfigError("--quantiles learns by Huber's loss: drop --loss squared")
        if self.replay_dir and self.compress_replay:
            raise ConfigError("--replay-dir and --compress-replay exclude each other: drop one")
        self._require_enough("replay_capacity", max(self.num_envs, self.batch_size), "transitions")
        # Windows of n steps are complete after n steps of each game: before that, nothing to draw.
        self._require_enough("warmup", self.num_envs, "games")

    @property
    def replay_share(self) -> int:
        """Transitions that one worker's replay buffer holds."""
        return self.replay_capacity // self.workers

    @property
    def warmup_share(self) -> int:
        """Agent steps that one worker takes before its first gradient."""
        return math.ceil(self.warmup / self.workers)

    def describe(self) -> str:
        """Return the agent in words: "double DQN, 3-step, prioritised"."""
        parts = [
            "dueling" if self.dueling else "",
            "double" if self.double else "",
            f"QR-DQN of {self.quantiles} quantiles" if self.quantiles > 1 else "DQN",
        ]
        more = [
            f"{self.n_step}-step" if self.n_step > 1 else "",
            "prioritised" if self.prioritised else "",
            "rescaled values" if self.value_rescaling else "",
            "squared errors" if self.loss == "squared" else "",
            self.precision if self.precision != "auto" else "",
        ]
        return ", ".join([" ".join(filter(None, parts)), *filter(None, more)])

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

    def _require_enough(self, name: str, each: int, what: str) -> None:
        smallest = self.workers * each * self.n_step
        self._require(
            name,
            getattr(self, name) >= smallest,
            f"at least {smallest}: {self.workers} workers × {each} {what} × {self.n_step} steps",
        )

    def _require(self, name: str, holds: object, expected: str) -> None:
        if not holds:
            raise ConfigError(
                f"{option_name(name)} must be {expected}, not {getattr(self, name)!r}"
            )


CHOICES = {
    "agent": ("ddq", "dqn", "rainbow", "apex"),
    "protocol": ("ddq", "nature", "ale"),
    "loss": ("huber", "squared"),
    "overlap": ("auto", "on", "off"),
    "precision": ("auto", "float32", "tf32", "bf16", "bf16-all"),
    "wire_dtype": ("float32", "bfloat16"),
}
_SHARES = ("gamma", "epsilon_start", "epsilon_end", "priority_exponent", "priority_beta")
_AT_LEAST_ONE = (
    "workers",
    "num_envs",
    "batch_size",
    "quantiles",
    "n_step",
    "steps_per_update",
    "target_period",
    "pull_period",
)
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
        "epsilon_end": 0.01,  # one random step in twenty ends a long snake before it is one
        "target_period": 250,
    },
}


# The agents of the literature, where they differ from ours, which is double DQN on 3 steps.
AGENTS: dict[str, dict[str, Any]] = {
    "ddq": {},
    # Mnih et al., 2015: one step, the target network selects and evaluates.
    "dqn": {"double": False, "n_step": 1},
    # Hessel et al., 2018, table 1; QR-DQN (Dabney et al., 2018) for C51, ε for noise.
    "rainbow": {
        "dueling": True,
        "prioritised": True,
        "priority_exponent": 0.5,
        "quantiles": 51,
    },
    # Horgan et al., 2018: prioritised replay, and actors that differ in how much they explore.
    "apex": {"dueling": True, "prioritised": True, "epsilon_ladder": True},
}


def defaults_for(game: str, **changes: Any) -> AgentConfig:
    """Return a game's defaults under those of the agent, with `changes` to single fields.

    Raises:
        ConfigError: If a change has a value that cannot work, or names no field.
    """
    agent = AGENTS.get(str(changes.get("agent")), {})
    return AgentConfig.from_json({**_DEFAULTS.get(game, {}), **agent, "game": game, **changes})


def _either(choices: tuple[str, ...]) -> str:
    """Return "a, b or c"."""
    return f"{', '.join(choices[:-1])} or {choices[-1]}"


def option_name(name: str) -> str:
    """Return a field's name as the user types it."""
    return "--" + name.replace("_", "-")
