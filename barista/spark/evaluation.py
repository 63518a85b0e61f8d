"""The evaluation at the end of a run, as one Spark job: each task plays one block of episodes.

Blocks are seeded by their number (see `barista.playing.episodes`), so the result does not depend
on how many slots there are, nor on which task plays what.  The weights travel as a broadcast;
Spark's Python workers, which are used again, make the network of them once.
"""

from __future__ import annotations

import functools
import time
from contextlib import suppress
from typing import TYPE_CHECKING, cast

import numpy as np

from barista.playing.episodes import Evaluation, Players, Terms, play_block
from barista.playing.players import net_of, network_player, random_player
from barista.rounds import RoundError
from barista.spark.rounds import RoundJob, spark_may_be_gone

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from pyspark import SparkContext

    from barista.playing.episodes import Player

BLOCK_LIMIT_S = 900.0  # for one block; what is finished by then counts, and is called incomplete
_GROUP = "ddq evaluation"
_SAY_EVERY_S = 10.0


def play_on_spark(
    context: SparkContext,
    terms: Terms,
    net: str,
    weights: NDArray[np.float32],
    *,
    check: Callable[[], None],
    say: Callable[[str], object],
) -> Players:
    """Return what a network reaches, and what chance does, over the slots of a context.

    Args:
        context: Spark's.
        terms: Of the evaluation.
        net: Text of the network's prototxt.
        weights: Its learnable parameters, flat float32 [P].
        check: Called once a second; raises what was asked for meanwhile.
        say: Takes a line about how far it is, now and then.

    Raises:
        RoundError: If the job fails, or Spark is gone.
    """
    with spark_may_be_gone():
        shared = context.broadcast((net, weights.tobytes()))
        finished = context.accumulator(0)

    def play(turn: tuple[bool, int]) -> Evaluation:
        by_chance, block = turn
        player = random_player(terms) if by_chance else _player(terms, *shared.value)
        result = play_block(player, terms, block, stop_at=time.monotonic() + BLOCK_LIMIT_S)
        if not by_chance:
            finished.add(len(result.returns))
        return result

    # The long ones first: what the trained player plays.
    turns = [(by_chance, block) for by_chance in (False, True) for block in terms.blocks]

    def work() -> list[Evaluation]:
        context.setJobGroup(_GROUP, f"ddq evaluation: {terms.episodes} episodes")
        return context.parallelize(turns, len(turns)).map(play).collect()

    with spark_may_be_gone():
        job = RoundJob(work)
    said_at = time.monotonic()
    try:
        while not job.wait(1.0):
            check()
            if time.monotonic() - said_at > _SAY_EVERY_S:
                said_at = time.monotonic()
                say(f"  {finished.value} of {terms.episodes} episodes")
        played = cast("list[Evaluation]", job.rows())
    except BaseException:
        with suppress(RoundError), spark_may_be_gone():
            context.cancelJobGroup(_GROUP)
        raise
    half = len(terms.blocks)
    return Players(Evaluation.join(played[:half]), Evaluation.join(played[half:]))


@functools.lru_cache(maxsize=1)
def _player(terms: Terms, net: str, weights: bytes) -> Player:
    """Return the network's player, made once in each of Spark's Python workers."""
    return network_player(net_of(net, np.frombuffer(weights, np.float32)), terms)
