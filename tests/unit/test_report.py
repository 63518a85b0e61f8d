"""What the user sees."""

import fcntl
import os
import pty
import select
import struct
import sys
import termios

import pytest

from barista.driver.report import Progress, describe, draw_curve, verdict
from barista.playing.episodes import Evaluation

STATUS = {
    "version": 1203,
    "steps": 4812,
    "loss": 0.0123,
    "return_mean": -20.25,
    "updates_per_s": 38.2,
}


def test_a_status_reads_as_a_line():
    line = describe(STATUS, epsilon=0.851, round_number=3)
    assert line == (
        "round 3 · 1,203 updates · 4,812 steps · ε 0.85 · loss 0.0123 · return -20.25 · "
        "38.2 updates/s"
    )


def test_what_is_not_known_yet_is_left_out():
    line = describe({"version": 0, "steps": 0, "loss": None}, epsilon=1, round_number=1)
    assert line == "round 1 · 0 updates · 0 steps · ε 1.00"


def test_the_verdict_says_how_far_apart_the_players_are():
    greedy = Evaluation((10.0, 12.0, 14.0), (1, 1, 1), complete=True)
    random = Evaluation((0.0, 1.0, 2.0), (1, 1, 1), complete=True)
    lines = verdict(greedy, random)
    # Standard errors are 2/√3 and 1/√3; their root of squares is √(5/3).
    assert "12.00 ± 1.15" in lines[0]
    assert "1.00 ± 0.58" in lines[1]
    assert lines[2].strip() == "+8.5 standard errors apart"


def test_without_a_terminal_there_is_a_line_a_round(capsys):
    progress = Progress(minutes=None, rounds=2)
    progress.show("refreshed", 0)
    progress.end_of_round("round 1")
    progress.close()
    assert capsys.readouterr().err == "round 1\n"


@pytest.fixture
def terminal(monkeypatch):
    """A terminal of 120 columns; read what was drawn from its other end."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    with os.fdopen(slave, "w") as stream:
        monkeypatch.setattr("barista.driver.report.find_terminal", lambda: stream)
        yield lambda: read_all(master)
    os.close(master)


def read_all(master):
    """Return what has been drawn; the kernel hands it over in pieces of its own."""
    drawn = b""
    while select.select([master], [], [], 0.2)[0]:
        drawn += os.read(master, 65536)
    return drawn.decode()


def test_on_a_terminal_there_is_one_line_that_refreshes(terminal):
    progress = Progress(minutes=1, rounds=None)
    progress.show("round 1 · 20 updates", 0)
    progress.end_of_round("not this")
    progress.say("a line that stays")
    progress.close()
    drawn = terminal()
    assert "\r" in drawn
    assert "round 1 · 20 updates" in drawn
    assert "a line that stays" in drawn
    assert "not this" not in drawn


def test_a_terminal_without_columns_is_none(terminal, monkeypatch):
    monkeypatch.setattr("barista.driver.report._width", lambda _: 0)
    progress = Progress(minutes=1, rounds=None)
    assert progress._bar.disable
    assert progress._stream is sys.stderr


@pytest.mark.parametrize("rows", [0, 1, 30])
def test_the_curve_is_a_picture(tmp_path, rows):
    path = tmp_path / "curve.png"
    data = [{"steps": 100 * n, "return_mean": n / 10, "loss": 1 / (n + 1)} for n in range(rows)]
    draw_curve(path, data, title="Snake", greedy=3.0 if rows else None)
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", content[16:24])
    assert width > 500
    assert height > 300


def test_evaluations_between_rounds_are_marked(tmp_path, monkeypatch):
    marked = []
    monkeypatch.setattr(
        "matplotlib.axes.Axes.errorbar", lambda _, *points, **style: marked.append((points, style))
    )
    score = {"version": 9, "return_mean": 1.5, "return_se": 0.25, "episodes": 8}
    alone = {**score, "return_mean": 2.0, "return_se": None}
    rows = [
        {"steps": 1, "return_mean": 0.0, "loss": 0.1, "evaluation": None},
        {"steps": 2, "return_mean": 0.0, "loss": 0.1, "evaluation": score},
        {"steps": 3, "return_mean": 0.0, "loss": 0.1},
        {"steps": 4, "return_mean": 0.0, "loss": 0.1, "evaluation": alone},
    ]
    draw_curve(tmp_path / "curve.png", rows, title="Snake")
    ((points, style),) = marked
    assert points == ((2, 4), (1.5, 2.0))
    assert style["yerr"] == (0.25, 0.0)
