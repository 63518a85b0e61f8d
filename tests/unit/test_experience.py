"""Experience as Parquet: what one replay held, another learns from."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from barista import experience
from barista.config import ConfigError
from barista.games.vector import GameSpec
from barista.storage import open_storage
from replay import ReplayBuffer
from tests import tiny

SPEC = GameSpec("catch", num_actions=3, frame_shape=(2, 2), stack=3)


def config(folder, **changes):
    return tiny.config(
        **{"num_envs": 2, "n_step": 3, "replay_to": str(folder), "gamma": 0.9, **changes}
    )


def buffer(kind=ReplayBuffer, *, capacity=60, n_step=3, num_envs=2, seed=0, storage=None):
    return kind(
        capacity, frame_shape=(2, 2), stack=3, num_envs=num_envs, n_step=n_step, gamma=0.9,
        rng=np.random.default_rng(seed), storage=storage,
    )  # fmt: skip


def play(replays, *, steps, lengths=(1, 2, 7, 5), num_envs=2):
    """Give the same random episodes to each buffer; every other one is truncated."""
    rng = np.random.default_rng(1)
    for env in range(num_envs):
        left = episode = 0
        for step in range(steps):
            frame = rng.integers(256, size=(2, 2), dtype=np.uint8)
            action, reward = int(rng.integers(3)), float(rng.integers(-1, 2))
            for replay in replays:
                if not left:
                    replay.start(env, frame)
                else:
                    replay.append(
                        env, action, reward, frame,
                        terminated=left == 1 and episode % 2 == 0,
                        truncated=left == 1 and episode % 2 == 1,
                    )  # fmt: skip
            if not left:
                left, episode = lengths[(env + episode) % len(lengths)], episode + 1
            else:
                left -= 1
            del step


def contents(replay):
    """All transitions, in an order of their own."""
    batch = replay.take(np.arange(replay.size))
    rows = zip(batch.states, batch.actions, batch.rewards, batch.discounts, batch.next_states,
               strict=True)  # fmt: skip
    return sorted(
        (s.tobytes(), int(a), round(float(r), 4), round(float(d), 4), n.tobytes())
        for s, a, r, d, n in rows
    )


def kept(folder, **how):
    """A buffer's file, and its twin that has seen the same."""
    replay, twin = buffer(experience.KeptReplay), buffer()
    experience.attach(replay, config(folder), SPEC, ordinal=0)
    play([replay, twin], **how)
    replay.close()
    return twin


@pytest.mark.parametrize("n_step", [1, 3])
def test_another_buffer_has_the_same_transitions(tmp_path, n_step):
    """Also with windows of another length, and environments of another number."""
    replay, twin = buffer(experience.KeptReplay), buffer(n_step=n_step)
    experience.attach(replay, config(tmp_path / "a"), SPEC, ordinal=0)
    play([replay, twin], steps=25, lengths=(4, 1, 6, 2))  # both environments end an episode
    replay.close()
    again = buffer(n_step=n_step, num_envs=1)
    asked = config("", replay_from=str(tmp_path / "a"), n_step=n_step, num_envs=1)
    experience.attach(again, asked, SPEC, ordinal=0)
    again.check()
    cut = [row for row in contents(again) if row not in contents(twin)]
    assert set(contents(twin)) <= set(contents(again))
    assert len(cut) <= 2 * (n_step - 1)  # the windows of an episode under way


def test_rows_are_whole_episodes_though_the_ring_has_turned(tmp_path):
    kept(tmp_path, steps=400)
    rows = pq.read_table(tmp_path / "worker-0.parquet").to_pylist()
    assert pq.read_schema(tmp_path / "worker-0.parquet").equals(experience.SCHEMA)
    lasts = [row for row in rows if row["action"] is None]
    firsts = [row for row in rows if row["step"] == 0]
    ends = [row for row in rows if row["terminal"] or row["truncated"]]
    assert len(firsts) == len(lasts) == len(ends) > 4
    assert {row["reward"] is None for row in lasts} == {True}
    assert {round(row["reward"], 4) for row in rows if row["reward"] is not None} <= {-1, 0, 1}
    assert {row["terminal"] for row in ends} == {True, False}


def test_each_worker_takes_its_share_and_all_is_taken_once(tmp_path):
    whole = kept(tmp_path, steps=25, lengths=(4, 1, 6, 2))
    shares = []
    for ordinal in range(3):
        share = buffer(seed=ordinal)
        asked = config("", replay_from=str(tmp_path), workers=3)
        experience.attach(share, asked, SPEC, ordinal=ordinal)
        assert 0 < share.size < whole.size
        shares += contents(share)
    assert set(contents(whole)) <= set(shares)
    assert len(shares) <= whole.size + 4  # an episode under way has its last windows too


def test_long_episodes_are_written_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(experience, "BATCH", 4)
    whole = kept(tmp_path, steps=25, lengths=(11, 10))
    again = buffer()
    experience.attach(again, config("", replay_from=str(tmp_path)), SPEC, ordinal=0)
    assert set(contents(whole)) <= set(contents(again))


@pytest.mark.parametrize(
    ("change", "named"),
    [({"game": "other"}, "game"), ({"protocol": "ale"}, "protocol"), ({"frame": (3, 3)}, "shape")],
)
def test_experience_of_another_game_is_refused(tmp_path, change, named):
    kept(tmp_path, steps=20)
    spec = SPEC._replace(frame_shape=change.pop("frame", (2, 2)))
    with pytest.raises(ConfigError, match=rf"--replay-from .* was made with \w*{named}"):
        experience.check(config("", replay_from=str(tmp_path), **change), spec)


def test_what_is_no_experience_is_refused(tmp_path):
    asked = config("", replay_from=str(tmp_path))
    with pytest.raises(ConfigError, match=r"no _settings\.json"):
        experience.check(asked, SPEC)
    told = experience.settings(asked, SPEC)
    (tmp_path / experience.SETTINGS).write_text(json.dumps(told))
    with pytest.raises(ConfigError, match=r"no \*\.parquet"):
        experience.check(asked, SPEC)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match="name a new folder"):
        experience.check(config(tmp_path), SPEC)


@pytest.mark.parametrize("damage", ["torn", "order", "end", "action", "frame", "column"])
def test_a_damaged_file_is_one_line(tmp_path, damage):
    kept(tmp_path, steps=30)
    path = tmp_path / "worker-0.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    if damage == "torn":
        path.write_bytes(path.read_bytes()[:-50])
    elif damage == "column":
        pq.write_table(table.drop_columns(["reward"]), path)
    else:
        if damage == "order":
            rows.reverse()
        elif damage == "end":
            rows.pop()
        elif damage == "action":
            rows[0]["action"] = 7
        else:
            rows[1]["frame"] = b"x"
        pq.write_table(table.from_pylist(rows, experience.SCHEMA), path)
    with pytest.raises(ConfigError, match=r"worker-0\.parquet is damaged \(.+\): remove it") as why:
        experience.attach(buffer(), config("", replay_from=str(tmp_path)), SPEC, ordinal=0)
    assert "\n" not in str(why.value)


def test_a_folder_that_cannot_be_written_is_refused_at_the_start(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--replay-to .*: Not a directory: name a folder"):
        kept(tmp_path / "file" / "folder", steps=20)


def test_a_folder_that_is_gone_at_the_end_is_a_warning(tmp_path, capsys):
    replay = buffer(experience.KeptReplay)
    experience.attach(replay, config(tmp_path / "folder"), SPEC, ordinal=0)
    play([replay], steps=20)
    shutil.rmtree(tmp_path / "folder")
    replay.close()
    assert "warning: --replay-to" in capsys.readouterr().err


def test_a_run_that_came_to_no_end_may_be_begun_again(tmp_path):
    experience.attach(buffer(experience.KeptReplay), config(tmp_path), SPEC, ordinal=0)
    experience.check(config(tmp_path), SPEC)


def test_a_mapped_buffer_that_was_filled_in_part_is_filled_anew(tmp_path):
    kept(tmp_path / "from", steps=50)
    file = tmp_path / "from/worker-0.parquet"
    rows = pq.read_table(file)
    given = config("", replay_from=str(tmp_path / "from"))

    def fill():
        storage = open_storage(tmp_path / "mapped", compress=False, settings={})
        replay = buffer(storage=storage)
        try:
            experience.attach(replay, given, SPEC, ordinal=0, storage=storage)
        finally:
            storage.close()
        return replay

    pq.write_table(rows.slice(0, rows.num_rows - 1), file)
    with pytest.raises(ConfigError, match="is damaged"):
        fill()
    pq.write_table(rows, file)
    whole = buffer()
    experience.attach(whole, given, SPEC, ordinal=0)
    assert contents(fill()) == contents(whole)
    file.unlink()  # not read again
    assert contents(fill()) == contents(whole)


def test_states_of_one_frame_do_not_make_a_cut_episode_whole(tmp_path):
    """Without a history nothing in a row says whether it begins an episode."""
    spec = SPEC._replace(stack=1)
    replay = experience.KeptReplay(
        20, frame_shape=(2, 2), stack=1, num_envs=1, n_step=1, gamma=0.9,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    experience.attach(replay, config(tmp_path, num_envs=1, n_step=1), spec, ordinal=0)
    play([replay], steps=30, lengths=(7,), num_envs=1)
    assert {len(episode.actions) for episode in replay.episodes(0)} <= {7, 30 % 8 - 1}
