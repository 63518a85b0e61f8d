"""The script that writes model files: what it writes equals what is committed."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from barista.games.models import mlp_network, one_net, q_network

ROOT = Path(__file__).resolve().parents[2]


def _load():
    """Import the script by its path: models/ is no package."""
    path = ROOT / "models" / "generate_prototxt.py"
    spec = importlib.util.spec_from_file_location("generate_prototxt", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate_prototxt = _load()


@pytest.fixture(scope="module")
def committed():
    return generate_prototxt.committed_files()


def test_committed_files_are_what_the_script_writes(committed):
    for name, text in committed.items():
        assert (ROOT / "models" / name).read_bytes() == text.encode(), name
    present = {
        path.relative_to(ROOT / "models").as_posix()
        for kind in ("prototxt", "svg")
        for path in (ROOT / "models").glob(f"*/*.{kind}")
    }
    assert present == set(committed)


def test_committed_rewrites_the_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generate_prototxt, "ROOT", tmp_path)
    few = {name: generate_prototxt.COMMITTED[name] for name in ("mlp", "snake")}
    monkeypatch.setattr(generate_prototxt, "COMMITTED", few)
    assert generate_prototxt.main(["--committed"]) == 0
    written = {
        path.relative_to(tmp_path / "models").as_posix(): path.read_text(encoding="utf-8")
        for path in tmp_path.rglob("*.*")
    }
    assert written == generate_prototxt.committed_files()
    assert capsys.readouterr().out.count("wrote ") == len(written) == 6


def test_game_writes_a_folder_that_names_itself(tmp_path):
    folder = tmp_path / "breakout"
    assert generate_prototxt.main(["--game", "ALE/Breakout-v5", "--output", str(folder)]) == 0
    net = (folder / "train_val.prototxt").read_text()
    assert net == q_network("nature", 4, 4, 84, 84)
    for solver in ("solver.prototxt", "solver_rmsprop.prototxt"):
        assert f'net: "{folder.as_posix()}/train_val.prototxt"' in (folder / solver).read_text()


def test_sizes_print_a_network(capsys):
    arguments = ["--actions", "3", "--size", "20x16", "--stack", "2", "--batch", "8"]
    assert generate_prototxt.main(arguments) == 0
    assert capsys.readouterr().out == q_network("snake", 3, 2, 20, 16, batch=8)


def test_architecture_can_be_chosen(capsys):
    assert generate_prototxt.main(["--game", "ddq/Snake-v0", "--arch", "mlp"]) == 0
    assert capsys.readouterr().out == q_network("mlp", 4, 2, 16, 16)


def test_one_number_is_the_size_of_a_vector(capsys):
    arguments = ["--actions", "3", "--size", "7", "--dueling", "--quantiles", "5"]
    assert generate_prototxt.main(arguments) == 0
    assert capsys.readouterr().out == mlp_network(3, 7, dueling=True, quantiles=5)


def test_one_net_is_written_with_a_picture_and_a_solver_of_its_own(tmp_path):
    arguments = ["--actions", "2", "--size", "4", "--form", "one-net", "--gamma", "0.9"]
    assert generate_prototxt.main([*arguments, "--output", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        "one_net.prototxt",
        "one_net.svg",
        "solver_one_net.prototxt",
    }
    assert (tmp_path / "one_net.prototxt").read_text() == one_net("mlp", 2, (1, 4), gamma=0.9)
    solver = (tmp_path / "solver_one_net.prototxt").read_text()
    assert f'net: "{tmp_path.as_posix()}/one_net.prototxt"' in solver


def test_protocol_decides_on_the_actions(capsys):
    assert generate_prototxt.main(["--game", "ALE/Pong-v5", "--protocol", "ale"]) == 0
    assert capsys.readouterr().out == q_network("nature", 18, 4, 84, 84)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "say --game ID, or --actions N with --size and --stack\n"),
        (["--game", "Pong"], "no game Pong; did you mean ALE/Pong-v5?\n"),
        (
            ["--game", "ddq/Snake-v0", "--arch", "nature"],
            "frames of 16x16 are too small for nature's conv2\n",
        ),
        (
            ["--size", "5x5", "--actions", "4", "--arch", "nature"],
            "frames of 5x5 are too small for nature's conv1\n",
        ),
        (
            ["--size", "5", "--actions", "4", "--arch", "nature"],
            "nature has convolutions, which need images, not vectors of 5 values\n",
        ),
        (
            ["--actions", "4", "--form", "one-net", "--dueling"],
            "the form one-net has neither --dueling nor --quantiles: drop them\n",
        ),
    ],
)
def test_mistakes_are_one_line_and_exit_code_two(arguments, reason, capsys):
    assert generate_prototxt.main(arguments) == 2
    assert capsys.readouterr() == ("", reason)


def test_folder_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    arguments = ["--actions", "2", "--output", str(tmp_path / "file" / "folder")]
    assert generate_prototxt.main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("size", ["84xx84", "84x84x3", "wide"])
def test_size_must_be_one_number_or_two(size, capsys):
    with pytest.raises(SystemExit) as stop:
        generate_prototxt.main(["--actions", "2", "--size", size])
    assert stop.value.code == 2
    assert "--size" in capsys.readouterr().err


def test_runs_as_a_script_from_anywhere(tmp_path):
    script = ROOT / "models" / "generate_prototxt.py"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    finished = subprocess.run(
        [sys.executable, str(script), "--actions", "6"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.stderr == ""
    assert finished.stdout == q_network("nature", 6, 4, 84, 84)
