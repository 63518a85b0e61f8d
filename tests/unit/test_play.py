"""`python -m barista.play`: what it plays, what it says, what it writes, what it refuses."""

import dataclasses
import json

import pytest

from barista import games, play
from barista.games import models
from barista.playing import recording
from tests.snapshots import ECHO, write_snapshot


@pytest.fixture
def snapshot(tmp_path):
    return write_snapshot(tmp_path / "7", version=7)


def run(capsys, *arguments):
    """Return the lines that a command says."""
    assert play.main([str(argument) for argument in arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out.splitlines()


def test_network_and_random_player_are_told(snapshot, capsys):
    lines = run(capsys, snapshot, "--episodes", "4", "--epsilon", "0")
    assert lines[0] == (
        f"{ECHO}, version 7: 4 episodes each, raw scores, protocol ddq, epsilon 0, seed 0"
    )
    assert lines[1].split() == ["mean", "±", "error", "median", "worst", "best", "steps"]
    assert lines[2].split() == ["network", "10.00", "0.00", "10.0", "10.0", "10.0", "40"]
    assert lines[3].split()[0] == "random"
    assert 0 < float(lines[3].split()[1]) < 10
    assert len(lines) == 4


def test_the_weights_in_the_snapshot_decide_what_is_played(tmp_path, capsys):
    for prefers, mean in ((1, "10.00"), (0, "0.00")):
        folder = write_snapshot(tmp_path / str(prefers), prefers)
        lines = run(capsys, folder, "--episodes", "2", "--epsilon", "0", "--no-random")
        assert lines[2].split()[1] == mean
        assert len(lines) == 3


def test_the_protocol_decides_what_is_not_given(snapshot, capsys):
    lines = run(capsys, snapshot, "--protocol", "nature", "--no-random")
    assert "30 episodes each, raw scores, protocol nature, epsilon 0.05" in lines[0]


def test_a_run_is_played_from_its_newest_snapshot_under_its_own_protocol(tmp_path, capsys):
    for version in (9, 10):
        write_snapshot(tmp_path / "snapshots" / str(version), version=version)
    agent = {"game": ECHO, "protocol": "ale"}
    (tmp_path / "config.json").write_text(json.dumps({"agent": agent}))
    lines = run(capsys, tmp_path, "--episodes", "1", "--no-random")
    assert f"{ECHO}, version 10: 1 episodes each, raw scores, protocol ale" in lines[0]


def test_everything_is_written_as_json(snapshot, tmp_path, capsys):
    file = tmp_path / "report.json"
    run(capsys, snapshot, "--episodes", "3", "--epsilon", "0", "--json", file)
    document = json.loads(file.read_text())
    assert document["network"]["returns"] == [10.0] * 3
    assert document["network"]["mean"] == 10.0
    assert len(document["random"]["returns"]) == 3
    assert (document["version"], document["game"], document["epsilon"]) == (7, ECHO, 0.0)
    assert document["human"] is document["human_normalised"] is None
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_game_of_ales_is_told_beside_people_and_the_minimal_set(tmp_path, capsys, monkeypatch):
    """Pong, trained with six actions, played with eighteen; cut short by a limit of frames."""
    short = dataclasses.replace(games.PROTOCOLS["ale"], max_frames=40)
    monkeypatch.setitem(games.PROTOCOLS, "ale", short)
    text = models.q_network("mlp", 6, 4, 84, 84)
    folder = write_snapshot(tmp_path / "7", text=text, game="ALE/Pong-v5")
    file = tmp_path / "report.json"
    lines = run(capsys, folder, "--protocol", "ale", "--episodes", "2", "--json", file)
    assert lines[4].startswith("human-normalised")
    assert lines[5] == (
        "the network keeps to the 6 actions of the game's minimal set, chance plays all 18 of "
        "protocol ale"
    )
    document = json.loads(file.read_text())
    assert document["human"] == 14.6
    mean, chance = document["network"]["mean"], document["random"]["mean"]
    share = 100 * (mean - chance) / (14.6 - chance)
    assert document["human_normalised"] == pytest.approx(share)


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_the_first_episode_is_recorded(snapshot, tmp_path, capsys, suffix):
    video = tmp_path / f"episode{suffix}"
    lines = run(capsys, snapshot, "--episodes", "2", "--epsilon", "0", "--record", video)
    assert lines[-1] == f"{video}: the first episode, score 10, 11 pictures"
    assert video.stat().st_size > 100


def test_progress_is_shown_on_a_terminal(snapshot, capsys, monkeypatch):
    monkeypatch.setattr(play.sys.stderr, "isatty", lambda: True)
    assert play.main([str(snapshot), "--episodes", "9"]) == 0
    assert "8 of 9 episodes" in capsys.readouterr().err


def mistake(capsys, *arguments):
    """Return the one line that a command complains with."""
    assert play.main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


@pytest.fixture
def unplayed(monkeypatch):
    """Fail when anything is played."""

    def play_something(*_arguments, **_options):
        pytest.fail("something was played")

    monkeypatch.setattr(play, "play", play_something)


@pytest.mark.usefixtures("unplayed")
def test_what_cannot_be_recorded_is_said_before_anything_is_played(
    snapshot, tmp_path, capsys, monkeypatch
):
    for name, said in (
        ("episode.avi", "ends in .mp4 or .gif"),
        ("none/episode.gif", "there is no folder"),
    ):
        line = mistake(capsys, snapshot, "--record", tmp_path / name)
        assert line.startswith(f"--record {tmp_path / name}: ")
        assert said in line
    monkeypatch.setattr(recording, "_NEEDS", {".mp4": ("no_such_library", "av")})
    line = mistake(capsys, snapshot, "--record", tmp_path / "episode.mp4")
    assert "pip install 'distributed-deep-q[record]'" in line
    assert list(tmp_path.glob("*episode*")) == []


@pytest.mark.usefixtures("unplayed")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--episodes", "0"], "--episodes must be at least 1, not 0"),
        (["--epsilon", "2"], "--epsilon must be between 0 and 1, not 2.0"),
        (["--seed", "-1"], "--seed must be at least 0, not -1"),
        (["--game", "Pong"], "did you mean ALE/Pong-v5?"),
        (["--game", "ddq/Snake-v0"], "takes states of (1, 5, 5)"),
    ],
)
def test_a_mistake_is_one_line(snapshot, capsys, arguments, said):
    assert said in mistake(capsys, snapshot, *arguments)


def test_without_a_snapshot(tmp_path, capsys):
    assert "is no snapshot" in mistake(capsys, tmp_path / "none")


@pytest.mark.parametrize("text", ["{", "[]"])
def test_with_a_broken_manifest(snapshot, text, capsys):
    (snapshot / "manifest.json").write_text(text)
    assert "JSON" in mistake(capsys, snapshot)


def test_without_any_game(snapshot, capsys):
    (snapshot / "manifest.json").write_text("{}")
    assert "say --game ID" in mistake(capsys, snapshot)


def test_with_damaged_weights(snapshot, capsys):
    (snapshot / "model.caffemodel").write_bytes(b"junk")
    assert "model.caffemodel" in mistake(capsys, snapshot)


def test_a_report_that_cannot_be_written_is_one_line(snapshot, tmp_path, capsys):
    line = mistake(capsys, snapshot, "--episodes", "1", "--json", tmp_path / "none/report.json")
    assert "none" in line


def test_an_interrupt_is_exit_code_130_and_leaves_no_video(snapshot, tmp_path, monkeypatch):
    def interrupt(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(recording.Gif, "finish", interrupt)
    arguments = [str(snapshot), "--episodes", "1", "--record", str(tmp_path / "episode.gif")]
    assert play.main(arguments) == 130
    assert list(tmp_path.glob("*episode*")) == []
