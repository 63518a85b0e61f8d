"""Evaluation: which episodes count, what stops it, and the command line."""

import json
import math
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from barista import games, play
from barista.games.models import q_network
from barista.play import Evaluation, PlayError, evaluate, random_player


class Coin(gymnasium.Env):
    """Half of the episodes last one step and return -10, half last 30 steps and return 10."""

    observation_space = spaces.Box(0, 255, (5, 5), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed, options=options)
        self.length = int(self.np_random.choice([1, 30]))
        self.steps = 0
        return np.zeros((5, 5), np.uint8), {}

    def step(self, action):
        self.steps += 1
        over = self.steps == self.length
        reward = (10.0 if self.length == 30 else -10.0) if over else 0.0
        return np.full((5, 5), self.steps, np.uint8), reward, over, False, {}


class Echo(Coin):
    """Rewards action 1; an episode lasts ten steps."""

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed, options=options)
        self.length = 10
        return observation, info

    def step(self, action):
        observation, _, over, truncated, info = super().step(action)
        return observation, float(action), over, truncated, info


@pytest.fixture(autouse=True)
def _registered():
    gymnasium.register("test/Coin-v0", entry_point=Coin)
    gymnasium.register("test/Echo-v0", entry_point=Echo)
    yield
    del gymnasium.registry["test/Coin-v0"], gymnasium.registry["test/Echo-v0"]


class FakeBlob:
    def __init__(self, *shape):
        self.reshape(*shape)

    @property
    def shape(self):
        return self.data.shape

    def reshape(self, *shape):
        self.data = np.zeros(shape, np.float32)


class FakeNet:
    """A Q-network whose output prefers action 1, and which counts what it is asked."""

    def __init__(self, state=(32, 4, 5, 5), actions=2):
        self.blobs = {"state": FakeBlob(*state), "Q_out": FakeBlob(state[0], actions)}
        self.batches = []

    def reshape(self):
        self.blobs["Q_out"].reshape(self.blobs["state"].shape[0], self.blobs["Q_out"].shape[1])

    def forward(self, state):
        assert state.shape == tuple(self.blobs["state"].shape)
        self.batches.append(len(state))
        self.blobs["Q_out"].data[...] = np.arange(self.blobs["Q_out"].shape[1])


def test_statistics():
    result = Evaluation((1.0, 2.0, 6.0), (1, 1, 1), complete=True)
    assert result.mean == 3.0
    assert result.median == 2.0
    assert result.standard_error == pytest.approx(math.sqrt(7.0 / 3.0))


def test_statistics_of_too_few_episodes_are_not_numbers():
    assert math.isnan(Evaluation((), (), complete=False).mean)
    assert math.isnan(Evaluation((), (), complete=False).median)
    assert math.isnan(Evaluation((1.0,), (1,), complete=True).standard_error)


@pytest.mark.parametrize("episodes", [1, 5, 16, 17, 40])
def test_each_copy_plays_its_share_of_the_episodes(episodes):
    """Against a slow twin: every copy alone, its first episodes in order."""
    result = random_player("test/Coin-v0", episodes, seed=4)
    copies = min(episodes, play.MAX_ENVS)
    expected = []
    for copy, seed in enumerate(games._seeds(4, copies, evaluation=True)):
        env = Coin()
        for episode in range(episodes // copies + (copy < episodes % copies)):
            env.reset(seed=seed if episode == 0 else None)
            expected.append((10.0 if env.length == 30 else -10.0, env.length))
    assert sorted(zip(result.returns, result.lengths, strict=True)) == sorted(expected)
    assert result.complete


def test_short_episodes_are_not_favoured():
    """Of the first 200 episodes to finish nearly all would be short ones."""
    result = random_player("test/Coin-v0", 200, seed=0)
    assert abs(result.mean) < 3 * 10 / math.sqrt(200)


def test_greedy_network_takes_its_best_action():
    assert evaluate(FakeNet(), "test/Echo-v0", 3, 0.0, 0) == Evaluation(
        (10.0, 10.0, 10.0), (10, 10, 10), complete=True
    )


def test_epsilon_is_the_share_of_random_actions():
    result = evaluate(FakeNet(), "test/Echo-v0", 200, 0.5, 0)
    assert result.mean == pytest.approx(7.5, abs=0.3)


def test_same_seed_same_result_and_another_seed_another():
    results = [evaluate(FakeNet(), "test/Echo-v0", 5, 0.5, seed) for seed in (1, 1, 2)]
    assert results[0] == results[1]
    assert results[0] != results[2]


def test_network_sees_all_copies_at_once():
    net = FakeNet()
    evaluate(net, "test/Echo-v0", 3, 0.0, 0)
    assert set(net.batches) == {3}


def test_limit_of_steps_leaves_it_incomplete():
    result = random_player("test/Echo-v0", 32, max_steps=16 * 12)
    assert len(result.returns) == 16
    assert not result.complete


def test_deadline_leaves_it_incomplete():
    assert random_player("test/Echo-v0", 4, deadline_s=0) == Evaluation((), (), complete=False)


def test_progress_counts_finished_episodes():
    seen = []
    random_player("test/Echo-v0", 20, progress=lambda *counts: seen.append(counts))
    assert seen == [(16, 20), (20, 20)]


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (FakeNet(state=(32, 4, 84, 84)), r"takes states of \(4, 84, 84\), but test/Echo-v0 shows"),
        (FakeNet(actions=6), "the network has 6 actions, but test/Echo-v0 has 2"),
        (SimpleNamespace(blobs={"state": FakeBlob(1)}), "no blob Q_out, so it is no Q-network"),
    ],
)
def test_network_of_another_game_is_refused(net, reason):
    with pytest.raises(PlayError, match=reason):
        evaluate(net, "test/Echo-v0", 1, 0.0, 0)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((0, 0.0, 0), "episodes must be at least 1, got 0"),
        ((1, 1.5, 0), "epsilon must lie between 0 and 1, got 1.5"),
        ((1, 0.0, -1), "seed must not be negative, got -1"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments, reason):
    with pytest.raises(PlayError, match=reason):
        evaluate(FakeNet(), "test/Echo-v0", *arguments)


def _snapshot(folder, **manifest):
    folder.mkdir(parents=True)
    for name in ("train_val.prototxt", "model.caffemodel"):
        (folder / name).touch()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def loaded(monkeypatch):
    """Let the command line load a fake network; return the files that it asked for."""
    asked = []

    def load(net, phase, *, weights):
        asked.append((net, phase, weights))
        return FakeNet()

    fake = SimpleNamespace(Net=load, TEST=1)
    monkeypatch.setattr(play, "caffe", fake)
    return asked


def test_command_prints_network_and_random_player(tmp_path, loaded, capsys):
    folder = _snapshot(tmp_path / "7", game="test/Echo-v0", version=7)
    assert play.main([str(folder), "--episodes", "4", "--epsilon", "0"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == ("test/Echo-v0, version 7: 4 episodes each, raw scores, epsilon 0, seed 0")
    assert lines[2].split() == ["network", "10.00", "0.00", "10.0", "10.0", "10.0", "40"]
    assert lines[3].split()[0] == "random"
    assert 0 < float(lines[3].split()[1]) < 10
    assert err == ""
    assert loaded == [
        (str(folder / "train_val.prototxt"), 1, str(folder / "model.caffemodel")),
    ]


def test_command_plays_a_network_of_the_engine(tmp_path, capsys):
    """With real files: the weights in the snapshot decide what is played."""
    folder = _snapshot(tmp_path / "0", game="test/Echo-v0")
    (folder / "train_val.prototxt").write_text(q_network("mlp", 2, 4, 5, 5))
    net = play.caffe.Net(str(folder / "train_val.prototxt"), play.caffe.TEST)
    for preferred, expected in ((1, "10.00"), (0, "0.00")):
        net.params["Q_out"][0].data[...] = 0
        net.params["Q_out"][1].data[...] = np.arange(2) == preferred
        net.save(str(folder / "model.caffemodel"))
        assert play.main([str(folder), "--episodes", "2", "--epsilon", "0"]) == 0
        assert capsys.readouterr().out.splitlines()[2].split()[1] == expected


def test_command_with_damaged_weights(tmp_path, capsys):
    folder = _snapshot(tmp_path / "0", game="test/Echo-v0")
    (folder / "train_val.prototxt").write_text(q_network("mlp", 2, 4, 5, 5))
    (folder / "model.caffemodel").write_bytes(b"junk")
    assert "model.caffemodel" in _mistake([str(folder)], capsys)


def test_command_takes_a_runs_newest_snapshot(tmp_path, loaded, capsys):
    for version in (9, 10):
        _snapshot(tmp_path / "snapshots" / str(version), version=version)
    assert play.main([str(tmp_path), "--game", "test/Echo-v0", "--episodes", "1"]) == 0
    assert "version 10" in capsys.readouterr().out


def test_command_shows_progress_on_a_terminal(tmp_path, loaded, capsys, monkeypatch):
    folder = _snapshot(tmp_path / "7", game="test/Echo-v0")
    monkeypatch.setattr(play.sys.stderr, "isatty", lambda: True)
    assert play.main([str(folder), "--episodes", "17"]) == 0
    assert "16 of 17 episodes" in capsys.readouterr().err


def _mistake(arguments, capsys):
    assert play.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_command_without_a_snapshot(tmp_path, capsys):
    assert "is no snapshot" in _mistake([str(tmp_path / "none")], capsys)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_command_with_a_broken_manifest(tmp_path, text, capsys):
    folder = _snapshot(tmp_path / "7")
    (folder / "manifest.json").write_text(text)
    assert "JSON" in _mistake([str(folder)], capsys)


def test_command_with_an_unknown_game(tmp_path, capsys):
    folder = _snapshot(tmp_path / "7")
    assert "did you mean ALE/Pong-v5?" in _mistake([str(folder), "--game", "Pong"], capsys)


def test_command_without_any_game(tmp_path, capsys):
    assert "say --game ID" in _mistake([str(_snapshot(tmp_path / "7"))], capsys)


def test_command_with_a_network_of_another_game(tmp_path, loaded, capsys):
    folder = _snapshot(tmp_path / "7", game="ddq/Snake-v0")
    assert "takes states of (4, 5, 5)" in _mistake([str(folder)], capsys)


def test_interrupt_is_exit_code_130(tmp_path, loaded, monkeypatch):
    def interrupt(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(play, "evaluate", interrupt)
    assert play.main([str(_snapshot(tmp_path / "7", game="test/Echo-v0"))]) == 130
