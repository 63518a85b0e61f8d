"""A process that writes to a mapped buffer without end, for tests that kill it.

Every frame says which it is, and the rest of a transition follows from its first frame: so a reader
knows of each transition whether it is whole.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from barista.config import ConfigError
from barista.priorities import SumTree
from barista.storage import open_storage
from replay import ReplayBuffer

ROOT = Path(__file__).resolve().parents[1]
NUM_ENVS, N_STEP, STACK, GAMMA = 2, 3, 4, 0.5
SHAPE = (64, 64)  # large enough that a kill strikes while one is copied


def open_buffer(folder):
    return ReplayBuffer(
        200,
        frame_shape=SHAPE, frame_dtype=np.int32, stack=STACK, num_envs=NUM_ENVS, n_step=N_STEP,
        gamma=GAMMA, rng=np.random.default_rng(0), priorities=SumTree,
        storage=open_storage(folder, compress=False, settings={}),
    )  # fmt: skip


def reward_at(number):
    return float(number % 8)


def write(folder, life):
    """Play episodes of 2 … 40 steps; frames are numbered from 1, beginning anew with each life."""
    buffer = open_buffer(folder)
    rng = np.random.default_rng(life)
    sys.stdout.write("writing\n")
    sys.stdout.flush()
    numbers, left = [1_000_000 * (life + 1)] * NUM_ENVS, [0] * NUM_ENVS
    while True:
        for env in range(NUM_ENVS):
            numbers[env] += 1
            frame = np.full(SHAPE, numbers[env], np.int32)
            if not left[env]:
                left[env] = int(rng.integers(2, 41))
                buffer.start(env, frame)
                continue
            left[env] -= 1
            number = numbers[env] - 1
            buffer.append(
                env, number % 5, reward_at(number), frame,
                terminated=not left[env], truncated=False,
            )  # fmt: skip


def check_transitions(buffer):
    """Assert that every transition is one that was played."""
    if not buffer.size:
        return
    batch = buffer.take(np.arange(buffer.size))
    for name in ("states", "next_states"):
        stacks = getattr(batch, name).reshape(buffer.size, STACK, -1)
        assert (stacks == stacks[:, :, :1]).all(), f"{name}: a frame is torn"
    first = batch.states[:, :, 0, 0]
    last = batch.next_states[:, :, 0, 0]
    for stack in (first, last):  # frames that follow each other, after none
        shown = stack[:, 1:] > 0
        steps = stack[:, 1:] - stack[:, :-1]
        assert ((steps == 1) | (stack[:, :-1] == 0))[shown].all()
    begin, spans = first[:, -1], last[:, -1] - first[:, -1]
    assert ((spans >= 1) & (spans <= N_STEP)).all()
    assert (batch.actions == begin % 5).all()
    returns = [
        sum(GAMMA**k * reward_at(int(number) + k) for k in range(span))
        for number, span in zip(begin, spans.tolist(), strict=True)
    ]
    assert np.array_equal(batch.rewards, np.array(returns, np.float32))
    assert ((batch.discounts == 0) | (batch.discounts == GAMMA**N_STEP)).all()
    assert ((spans == N_STEP) | (batch.discounts == 0)).all()


if __name__ == "__main__":
    try:
        write(Path(sys.argv[1]), int(sys.argv[2]))
    except ConfigError as error:
        sys.exit(str(error))
