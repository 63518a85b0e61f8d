"""Episodes that count: who plays them, by which rules, and what they reached.

This file decides how an evaluation counts.  Each episode is the first of a copy of the game that is
its own: of many copies' episodes, those that finish first are short, and in most games those that
went badly.  Eight copies are a block: they are played side by side until the last of their episodes
has ended, seeded by the block's number.  Blocks are independent: played here one after the other,
or by the tasks of a Spark job in any order, they give the same result.

Play is ε-greedy, with the ε of the protocol.  A purely greedy policy in a deterministic game can
repeat the same few states until the episode is cut off.  Returns are raw game scores, episodes are
full games.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from barista import games
from barista.games.protocol import named

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from barista.games.vector import Int64

BLOCK = 8  # episodes side by side: larger batches cost little less per state, and balance worse

Policy = Callable[["NDArray[Any]"], "Int64"]  # states [N, C, H, W] or [N, 1, D] to actions [N]
Player = Callable[[int], Policy]  # a block's number to the policy that plays it
Progress = Callable[[int, int], object]  # episodes finished, episodes wanted


class PlayError(ValueError):
    """Something asked for cannot be played; the message is one line for the user."""


@dataclass(frozen=True)
class Evaluation:
    """What a player reached, over the episodes that count, in their order."""

    returns: tuple[float, ...]  # raw scores
    lengths: tuple[int, ...]  # in steps
    complete: bool  # False: a limit came first; then short episodes are over-represented

    @property
    def mean(self) -> float:
        """The mean return; NaN without episodes."""
        return float(np.mean(self.returns)) if self.returns else math.nan

    @property
    def median(self) -> float:
        """The median return; NaN without episodes."""
        return float(np.median(self.returns)) if self.returns else math.nan

    @property
    def standard_error(self) -> float:
        """The standard error of the mean; NaN with fewer than two episodes."""
        if len(self.returns) < 2:
            return math.nan
        return float(np.std(self.returns, ddof=1) / math.sqrt(len(self.returns)))

    @property
    def worst(self) -> float:
        """The lowest return; NaN without episodes."""
        return min(self.returns, default=math.nan)

    @property
    def best(self) -> float:
        """The highest return; NaN without episodes."""
        return max(self.returns, default=math.nan)

    def to_json(self) -> dict[str, Any]:
        """Return episodes and statistics as a JSON object; what is not a number is null."""
        names = ("mean", "median", "standard_error", "worst", "best")
        values = {name: getattr(self, name) for name in names}
        return asdict(self) | {k: v if math.isfinite(v) else None for k, v in values.items()}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Evaluation:
        """Return what `to_json` has written.

        Raises:
            KeyError: If a field is missing.
        """
        returns, lengths = tuple(document["returns"]), tuple(document["lengths"])
        return cls(returns, lengths, complete=bool(document["complete"]))

    @classmethod
    def join(cls, parts: Iterable[Evaluation]) -> Evaluation:
        """Return the episodes of all `parts` as one evaluation."""
        kept = list(parts)
        return cls(
            tuple(value for part in kept for value in part.returns),
            tuple(length for part in kept for length in part.lengths),
            complete=all(part.complete for part in kept),
        )


class Players(NamedTuple):
    """What the trained player reached, and one that plays by chance."""

    greedy: Evaluation
    random: Evaluation


class Terms(NamedTuple):
    """The terms of an evaluation."""

    game: str  # a Gymnasium id
    episodes: int  # that count
    seed: int = 0  # of the games and of the exploration
    protocol: str = "ddq"
    epsilon: float | None = None  # share of random actions; None: the protocol's
    num_actions: int | None = None  # the network's; None: guessed from its outputs

    @property
    def blocks(self) -> range:
        """The numbers of the blocks that are played."""
        return range(-(-self.episodes // BLOCK))

    @property
    def exploration(self) -> float:
        """ε."""
        if self.epsilon is not None:
            return self.epsilon
        return named(self.protocol).evaluation_epsilon

    def seed_of(self, block: int) -> int:
        """Return the seed of a block's games: 32 bits."""
        return int(np.random.SeedSequence((self.seed, block)).generate_state(1)[0])

    def check(self) -> None:
        """Say which number is out of range.

        Raises:
            PlayError: As one line.
        """
        if self.episodes < 1:
            raise PlayError(f"--episodes must be at least 1, not {self.episodes}")
        if self.seed < 0:
            raise PlayError(f"--seed must be at least 0, not {self.seed}")
        if self.epsilon is not None and not 0 <= self.epsilon <= 1:
            raise PlayError(f"--epsilon must be between 0 and 1, not {self.epsilon}")


def play(
    player: Player,
    terms: Terms,
    *,
    deadline_s: float | None = None,
    threads: int = 1,
    progress: Progress | None = None,
    actions: list[int] | None = None,
) -> Evaluation:
    """Return what a player reaches, its blocks played one after the other.

    Args:
        player: who plays.
        terms: what.
        deadline_s: give up after so many seconds and return what is finished.
        threads: of the emulator.
        progress: called with the episodes finished so far whenever there are more.
        actions: gets those of the first episode.
    """
    stop_at = math.inf if deadline_s is None else time.monotonic() + deadline_s
    parts: list[Evaluation] = []

    def finished(in_block: int) -> None:
        if progress is not None:
            progress(sum(len(part.returns) for part in parts) + in_block, terms.episodes)

    for block in terms.blocks:
        part = play_block(
            player,
            terms,
            block,
            stop_at=stop_at,
            threads=threads,
            finished=finished,
            actions=None if block else actions,
        )
        parts.append(part)
    return Evaluation.join(parts)


def play_block(
    player: Player,
    terms: Terms,
    block: int,
    *,
    stop_at: float = math.inf,
    threads: int = 1,
    finished: Callable[[int], object] = lambda _: None,
    actions: list[int] | None = None,
) -> Evaluation:
    """Play the episodes of one block, each in a copy of the game of its own.

    Args:
        player: who plays.
        terms: what.
        block: its number.
        stop_at: by `time.monotonic`, when to give up and return what is finished.
        threads: of the emulator.
        finished: called with the episodes finished so far whenever there are more.
        actions: gets those of the first episode.
    """
    copies = min(BLOCK, terms.episodes - block * BLOCK)
    first: dict[int, tuple[float, int]] = {}  # copy to return and length of its first episode
    vector = games.make(
        terms.game,
        num_envs=copies,
        seed=terms.seed_of(block),
        threads=min(threads, copies),
        evaluation=True,
        protocol=terms.protocol,
    )
    policy = player(block)
    try:
        vector.reset()
        while len(first) < copies and time.monotonic() < stop_at:
            chosen = policy(vector.states())  # [N]
            if actions is not None and 0 not in first:
                actions.append(int(chosen[0]))
            step = vector.step(chosen)
            before = len(first)
            ended = np.flatnonzero(step.terminated | step.truncated).tolist()
            for copy, score, length in zip(
                ended, step.episode_returns, step.episode_lengths, strict=True
            ):
                first.setdefault(copy, (score, length))
            if len(first) > before:
                finished(len(first))
    finally:
        vector.close()
    played = [first[copy] for copy in sorted(first)]
    returns, lengths = tuple(score for score, _ in played), tuple(length for _, length in played)
    return Evaluation(returns, lengths, complete=len(first) == copies)
