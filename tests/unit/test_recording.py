"""Videos: the pictures of the game, all of them, and nothing left of one that failed."""

import av
import numpy as np
import pytest
from PIL import Image

from barista import games
from barista.playing import recording
from barista.playing.episodes import Terms, play
from barista.playing.players import random_player
from barista.playing.recording import RecordingError, check, record, write


def read(path):
    """Return a video's pictures, uint8 [T, H, W, 3], and how many it shows in a second."""
    if path.suffix == ".gif":
        with Image.open(path) as image:
            pictures = []
            for index in range(image.n_frames):
                image.seek(index)
                pictures.append(np.asarray(image.convert("RGB")))
            return np.stack(pictures), 1000 / image.info["duration"]
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return np.stack(pictures), float(stream.average_rate)


def screen_of(terms, actions):
    """Return what a screen shows, uint8 [T, H, W, 3]."""
    screen = games.make_screen(terms.game, seed=terms.seed_of(0), protocol=terms.protocol)
    pictures = [screen.reset(), *map(screen.step, actions)]
    screen.close()
    return np.stack(pictures)


@pytest.mark.parametrize(
    ("game", "suffix", "scale", "rate"),
    [
        ("ddq/Snake-v0", ".gif", 1, 10),
        ("ddq/Snake-v0", ".mp4", 2, 10),
        ("ALE/Pong-v5", ".gif", 1, 15),
        ("ALE/Pong-v5", ".mp4", 2, 15),
    ],
)
def test_a_recording_shows_the_game_step_by_step(tmp_path, game, suffix, scale, rate):
    terms = Terms(game, 1)
    actions = [0, 2, 3, 1, 2, 2, 3, 0] * 3
    path = tmp_path / f"episode{suffix}"
    assert record(path, terms, actions) == 25
    pictures, shown = read(path)
    expected = screen_of(terms, actions)
    if suffix == ".gif":  # whose writer shows equal neighbours as one, for longer
        moves = [0, *(np.flatnonzero(np.diff(expected, axis=0).any(axis=(1, 2, 3))) + 1)]
        expected = expected[moves]
    else:
        assert shown == rate
    expected = expected.repeat(scale, axis=1).repeat(scale, axis=2)
    assert pictures.shape == expected.shape
    error = np.abs(pictures.astype(int) - expected)
    assert error.mean() < 2
    # Single pixels, in colour: where the background is not, and most pictures differ.
    colourful = np.argwhere((expected != expected[0, 0, 0]).any(axis=3))
    for place in colourful[:: max(1, len(colourful) // 50)]:
        assert np.abs(error[tuple(place)]).max() < 60
    assert list(tmp_path.iterdir()) == [path]


def test_the_recorded_episode_is_the_first_of_the_evaluation(tmp_path, monkeypatch):
    """The screen goes through the states that were played: its score is the same."""
    terms, actions, rewards = Terms("ddq/Snake-v0", 9, seed=3), [], []
    result = play(random_player(terms), terms, actions=actions)
    screen = games.make_screen(terms.game, seed=terms.seed_of(0))
    step = screen._env.step

    def counted(action):
        outcome = step(action)
        rewards.append((outcome[1], outcome[2] or outcome[3]))
        return outcome

    monkeypatch.setattr(screen._env, "step", counted)
    monkeypatch.setattr(games, "make_screen", lambda *_, **__: screen)
    assert record(tmp_path / "episode.gif", terms, actions) == result.lengths[0] + 1
    assert sum(reward for reward, _ in rewards) == result.returns[0]
    assert [over for _, over in rewards] == [False] * (len(actions) - 1) + [True]


def test_odd_sizes_are_made_even(tmp_path):
    path = tmp_path / "odd.mp4"
    write(path, [np.full((301, 303, 3), 90, np.uint8)] * 3, 10)
    pictures, _ = read(path)
    assert pictures.shape == (3, 302, 304, 3)
    assert np.abs(pictures.astype(int) - 90).max() < 5


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, games.GameError])
def test_an_interrupted_one_leaves_nothing_and_an_older_one_stays(tmp_path, suffix, error):
    path = tmp_path / f"episode{suffix}"
    path.write_bytes(b"an older one")

    def pictures():
        yield np.zeros((300, 300, 3), np.uint8)
        raise error

    with pytest.raises(error):
        write(path, pictures(), 10)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"an older one"


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_a_folder_that_goes_away_is_one_line(tmp_path, suffix):
    folder = tmp_path / "videos"
    with pytest.raises(RecordingError, match=rf"--record {folder}/episode{suffix}: No such file"):
        write(folder / f"episode{suffix}", [np.zeros((300, 300, 3), np.uint8)], 10)


def test_what_cannot_be_written_is_known_beforehand(tmp_path, monkeypatch):
    check(tmp_path / "episode.MP4")
    (tmp_path / "folder.gif").mkdir()
    for name, said in (
        ("episode", "ends in .mp4 or .gif"),
        ("episode.webm", "ends in .mp4 or .gif"),
        ("none/episode.gif", "there is no folder"),
        ("folder.gif", "this is a folder"),
    ):
        with pytest.raises(RecordingError, match=said):
            check(tmp_path / name)
    monkeypatch.setattr(recording, "_NEEDS", {".mp4": ("no_such_library", "av")})
    with pytest.raises(RecordingError, match=r"needs av: pip install '.+\[record\]'"):
        check(tmp_path / "episode.mp4")


def test_a_game_without_pictures_is_known_beforehand():
    recording.check_screen(Terms("ddq/Snake-v0", 1))
    with pytest.raises(games.GameError, match="cannot be recorded"):
        recording.check_screen(Terms("tests.coin_env:Numbers-v0", 1))
