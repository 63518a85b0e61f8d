"""What a worker needs, told before it starts."""

import numpy as np
import pytest

from barista.driver import memory
from replay import ReplayBuffer
from tests import tiny

GAME = tiny.Catch.spec


def test_a_worker_needs_its_share_of_the_replay_beside_its_engine():
    alone, shared = (
        memory.worker_bytes(tiny.config(replay_capacity=10**7, workers=n), GAME) for n in (1, 2)
    )
    buffer = ReplayBuffer(
        5000, frame_shape=GAME.frame_shape, num_envs=8, n_step=2, stack=1, gamma=0.9,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    small = memory.worker_bytes(tiny.config(replay_capacity=5000), GAME)
    assert alone - memory._ENGINE_BYTES == pytest.approx(2 * (shared - memory._ENGINE_BYTES), 1e-3)
    assert small - memory._ENGINE_BYTES == pytest.approx(buffer.nbytes, rel=0.05)


def test_serial_workers_share_one_engine():
    config = tiny.config(replay_capacity=10**6, workers=4)
    each = memory.worker_bytes(config, GAME)
    assert memory.serial_bytes(config, GAME) == 4 * each - 3 * memory._ENGINE_BYTES


def test_a_network_counts_with_all_its_copies():
    bare, large = (memory.worker_bytes(tiny.config(), GAME, size) for size in (0, 10**7))
    assert large - bare == 5 * np.zeros(10**7, np.float32).nbytes


def test_frames_on_disk_take_disk_and_no_memory():
    here, there = (
        tiny.config(replay_capacity=10**6, replay_dir=folder) for folder in ("", "/data")
    )
    frames = 10**6 * np.prod(GAME.frame_shape)
    assert memory.worker_bytes(here, GAME) - memory.worker_bytes(there, GAME) >= frames
    assert memory.disk_bytes(here, GAME) == 0
    assert memory.disk_bytes(there, GAME) >= frames
