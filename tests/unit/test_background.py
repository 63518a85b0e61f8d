"""An evaluation in another process: its result, its manners, its end."""

import os
import subprocess
import sys

import psutil
import pytest

from barista.playing.background import NICENESS, BackgroundPlay
from barista.playing.episodes import PlayError, Terms, play
from barista.playing.players import load_net, network_player
from tests.server_rig import until
from tests.snapshots import ECHO, write_snapshot

pytestmark = pytest.mark.usefixtures("no_stray_processes")


def result_of(background, timeout_s=60):
    """Wait for a result."""
    background.wait(timeout_s)
    result = background.result()
    assert result is not None
    return result


def test_it_plays_what_would_be_played_here_and_steps_aside(tmp_path):
    folder = write_snapshot(tmp_path / "7")
    terms = Terms(ECHO, 9, seed=5, epsilon=0.3)
    background = BackgroundPlay(folder, terms, tmp_path)
    child = psutil.Process(background.pid)
    assert child.nice() == NICENESS
    assert os.getpgid(background.pid) != os.getpgid(0)  # Ctrl-C does not reach it
    assert result_of(background) == play(network_player(load_net(folder), terms), terms)


def test_what_goes_wrong_there_is_said_here(tmp_path):
    folder = write_snapshot(tmp_path / "7")
    (folder / "model.caffemodel").write_bytes(b"junk")
    background = BackgroundPlay(folder, Terms(ECHO, 1), tmp_path)
    with pytest.raises(PlayError, match=r"model\.caffemodel"):
        result_of(background)


def test_it_is_stopped_at_once(tmp_path):
    background = BackgroundPlay(write_snapshot(tmp_path / "7"), Terms(ECHO, 100_000), tmp_path)
    child = psutil.Process(background.pid)
    background.stop()
    assert not child.is_running()


def test_it_dies_with_the_process_that_began_it(tmp_path):
    folder = write_snapshot(tmp_path / "7")
    program = (
        "import sys, time; from pathlib import Path; from barista.playing.background import *; "
        "from barista.playing.episodes import Terms; folder = Path(sys.argv[1]); "
        f"play = BackgroundPlay(folder, Terms({ECHO!r}, 10**9), folder); "
        "print(play.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True
    )
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
