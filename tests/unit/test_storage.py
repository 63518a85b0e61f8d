"""Where a buffer's arrays live: mapped folders and compressed frames, sound, in use and damaged."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from barista.config import ConfigError
from barista.priorities import SumTree
from barista.storage import CompressedFrames, StorageError, open_storage
from replay import ReplayBuffer
from tests import replay_writer

SIZES = {"frame_shape": (4, 5), "stack": 2, "num_envs": 2, "n_step": 3, "gamma": 0.5}
HELD = 40 - 2 * 2  # the last two windows of two environments are open
SETTINGS = {"game": "Catch", "reward_clip": True}


def storage(folder=None, *, compress=False, **settings):
    return open_storage(folder, compress=compress, settings=SETTINGS | settings)


def make(folder, *, capacity=40, settings=SETTINGS, **changes):
    return ReplayBuffer(
        capacity,
        rng=np.random.default_rng(0),
        storage=open_storage(folder, compress=False, settings=settings),
        **SIZES | changes,
    )


def play(buffer, steps=30, first=0):
    for env in (0, 1):
        buffer.start(env, np.full((4, 5), first, np.uint8))
        for step in range(steps):
            frame = np.full((4, 5), first + 1 + step, np.uint8)
            buffer.append(env, step % 3, 0.25, frame, terminated=False, truncated=False)
    buffer.check()


def everything(buffer):
    """The transitions in an order of their own."""
    batch = buffer.take(np.arange(buffer.size))
    return sorted(zip(*([each.tobytes() for each in array] for array in batch), strict=True))


@pytest.fixture
def folder(tmp_path):
    """A folder with what a buffer left."""
    buffer = make(tmp_path / "worker-0")
    play(buffer)
    buffer.close()
    return tmp_path / "worker-0"


def refusal(folder, **changes):
    """What a buffer says that is refused, as it is told to the user; the folder is free again."""
    with pytest.raises(StorageError) as caught:
        make(folder, **changes)
    assert isinstance(caught.value, ConfigError)  # exit code 2
    open_storage(folder, compress=False, settings={}).close()
    message = str(caught.value)
    assert message.startswith(f"--replay-dir: {folder}")
    assert "\n" not in message
    return message.removeprefix(f"--replay-dir: {folder}")


def test_memory_needs_no_storage():
    assert storage() is None


def test_a_closed_folder_is_opened_as_it_was(folder):
    left = make(folder)
    transitions = everything(left)
    assert left.size == HELD
    left.close()
    again = make(folder)
    assert everything(again) == transitions
    play(again, steps=5, first=100)
    assert again.size == 40 - 2 * (2 + 1 + 2)  # those windows, and the frame between episodes


def test_a_folder_of_the_same_name_in_a_new_place_is_a_new_buffer(folder):
    assert make(folder.with_name("worker-1")).size == 0


def test_priorities_outlive_a_process(tmp_path):
    buffer = make(tmp_path, priorities=SumTree)
    play(buffer)
    batch = buffer.take(np.arange(buffer.size))
    buffer.update_priorities(batch.ids, np.arange(buffer.size))
    expected = dict(zip(batch.ids.tolist(), buffer._tree.get(buffer._live[:HELD]), strict=True))
    buffer.close()
    again = make(tmp_path, priorities=SumTree)
    again.check()
    ids = again.take(np.arange(again.size)).ids.tolist()
    assert dict(zip(ids, again._tree.get(again._live[:HELD]), strict=True)) == expected


def test_a_folder_is_one_process_s(folder):
    held = make(folder)
    assert refusal_in_use(folder)
    other = subprocess.run(
        [sys.executable, "-m", "tests.replay_writer", str(folder), "1"],
        capture_output=True, text=True, check=False, cwd=replay_writer.ROOT,
    )  # fmt: skip
    assert "is in use by another process: end that, or give another" in other.stderr
    held.close()
    make(folder).close()


def refusal_in_use(folder):
    with pytest.raises(StorageError, match="is in use by another process"):
        make(folder)
    return True


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"capacity": 42}, "capacity 40, not 42"),
        ({"n_step": 2}, "n_step 3, not 2"),
        ({"gamma": 0.25}, "gamma 0.5, not 0.25"),
        ({"stack": 3}, "stack 2, not 3"),
        ({"num_envs": 4}, "environments 2, not 4"),
        ({"priorities": SumTree}, "priority_exponent None, not 0.6"),
        ({"frame_shape": (4, 4)}, "frames uint8 [45, 4, 5], not uint8 [45, 4, 4]"),
        ({"frame_dtype": "float32"}, "frames uint8 [45, 4, 5], not float32 [45, 4, 5]"),
        ({"settings": SETTINGS | {"game": "Pong"}}, "game Catch, not Pong"),
        ({"settings": {"game": "Catch"}}, "reward_clip True, not None"),
    ],
)
def test_a_folder_made_with_other_options_is_refused(folder, changes, what):
    fix = "give the same options again, or remove it to begin anew"
    assert refusal(folder, **changes) == f" was made with {what}: {fix}"
    assert make(folder).size == HELD  # nothing has happened to it


def rewrite(name, change):
    """Return a way of damaging a folder: an array changed, by name."""

    def damage(folder):
        array = np.fromfile(folder / f"{name}.bin", np.dtype(DTYPES[name]))
        change(array)
        array.tofile(folder / f"{name}.bin")

    return damage


DTYPES = {"spans": "u1", "depths": "u1", "discounts": "f4", "heads": "i8", "frames": "u1"}
DAMAGES = {
    "replay.json is no header": lambda f: (f / "replay.json").write_bytes(b"\x00\xff{"),
    "actions.bin is missing": lambda f: (f / "actions.bin").unlink(),
    "frames.bin has 7 bytes, expected 900": lambda f: os.truncate(f / "frames.bin", 7),
    "more transitions than its capacity": rewrite("spans", lambda spans: spans.fill(3)),
    "states without their first frame": rewrite("depths", lambda depths: depths.fill(2)),
    "discounts of no span": rewrite("discounts", lambda discounts: discounts.fill(0.7)),
    "transitions that were never written": rewrite(
        "spans", lambda spans: np.copyto(spans, 4, where=spans > 0)
    ),
    "a frame where none may be": rewrite("frames", lambda frames: frames.fill(1)),
}


@pytest.mark.parametrize("fault", DAMAGES)
def test_a_damaged_folder_is_refused(folder, fault):
    DAMAGES[fault](folder)
    assert refusal(folder) == f" is damaged ({fault}): remove it to begin anew"


def test_a_write_position_that_cannot_be_is_refused(folder):
    rewrite("heads", lambda heads: heads.fill(-9))(folder)
    assert "is damaged (transitions that were never written)" in refusal(folder)


def test_a_wrong_priority_is_refused(tmp_path):
    buffer = make(tmp_path, priorities=SumTree)
    play(buffer)
    buffer.close()
    np.full(64, np.nan).tofile(tmp_path / "priorities.bin")
    assert "priorities that cannot be" in refusal(tmp_path, priorities=SumTree)


def test_another_format_is_refused(folder):
    header = json.loads((folder / "replay.json").read_text())
    (folder / "replay.json").write_text(json.dumps(header | {"format": 0}))
    assert "was made with format 0, not 1" in refusal(folder)


def test_a_folder_whose_making_was_interrupted_is_made_anew(folder):
    (folder / "replay.json").unlink()
    again = make(folder)
    assert again.size == 0
    play(again)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"--replay-dir: .*file/worker-0: Not a directory"):
        storage(tmp_path / "file" / "worker-0")


def test_a_full_disk_is_told_at_once_and_nothing_is_left(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    fix = "ask for a smaller --replay-capacity, or give another folder"
    assert refusal(tmp_path) == f": No space left on device: {fix}"
    assert [file.name for file in tmp_path.iterdir()] == ["lock"]


def test_a_buffer_killed_while_it_is_written_is_whole(tmp_path):
    """Killed again and again: every transition that is there is one that was played."""
    grown = set()
    for life in range(6):
        writer = subprocess.Popen(
            [sys.executable, "-m", "tests.replay_writer", str(tmp_path), str(life)],
            stdout=subprocess.PIPE, cwd=replay_writer.ROOT,
        )  # fmt: skip
        assert writer.stdout.readline() == b"writing\n"
        time.sleep(0.01 + 0.013 * life)
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        buffer = replay_writer.open_buffer(tmp_path)
        buffer.check()
        replay_writer.check_transitions(buffer)
        grown.add(int(buffer._heads.sum()))
        buffer.close()
    assert len(grown) == 6
    assert max(grown) > 3 * 200  # it went round


def test_compressed_frames_are_the_frames():
    rng = np.random.default_rng(0)
    for dtype in (np.uint8, np.float32):
        plain = np.zeros((9, 6, 7), dtype)
        frames = CompressedFrames(plain.shape, dtype)
        for row in (3, 4, 3, 8):
            frames[row] = plain[row] = (255 * rng.random((6, 7))).astype(dtype)
        frames[5] = plain[5] = np.asfortranarray(plain[3])
        rows = rng.integers(9, size=(2, 3, 4))
        assert frames.take(rows).dtype == dtype
        assert np.array_equal(frames.take(rows), plain[rows])


def test_compressed_frames_say_what_they_take():
    frames = CompressedFrames((100, 84, 84), np.uint8)
    for row in range(100):
        frames[row] = np.full((84, 84), row, np.uint8)
    flat = frames.nbytes
    assert flat < 100 * 200
    for row in range(100):
        frames[row] = np.random.default_rng(row).integers(256, size=(84, 84), dtype=np.uint8)
    noise = frames.nbytes
    assert noise > 100 * 84 * 84
    kept = sum(map(sys.getsizeof, frames._frames)) + sys.getsizeof(frames._frames)
    assert noise == kept
