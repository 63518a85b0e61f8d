"""The script that writes model files: what it writes equals what is committed."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _load():
    """Import the script by its path: models/ is no package."""
    path = ROOT / "models" / "generate_prototxt.py"
    spec = importlib.util.spec_from_file_location("generate_prototxt", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate_prototxt = _load()


def test_committed_files_are_what_the_script_writes():
    files = generate_prototxt.committed_files()
    for name, text in files.items():
        assert (ROOT / "models" / name).read_bytes() == text.encode()
    committed = {
        path.relative_to(ROOT / "models").as_posix()
        for folder in generate_prototxt.COMMITTED
        for path in (ROOT / "models" / folder).glob("*.prototxt")
    }
    assert committed == set(files)


def test_committed_rewrites_the_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generate_prototxt, "ROOT", tmp_path)
    assert generate_prototxt.main(["--committed"]) == 0
    written = {
        path.relative_to(tmp_path / "models").as_posix(): path.read_text()
        for path in tmp_path.rglob("*.prototxt")
    }
    assert written == generate_prototxt.committed_files()
    assert capsys.readouterr().out.count("wrote ") == len(written)


def test_game_writes_a_folder_that_names_itself(tmp_path):
    folder = tmp_path / "breakout"
    assert generate_prototxt.main(["--game", "ALE/Breakout-v5", "--output", str(folder)]) == 0
    net = (folder / "train_val.prototxt").read_text()
    assert net == generate_prototxt.q_network("nature", 4, 4, 84, 84)
    for solver in ("solver.prototxt", "solver_rmsprop.prototxt"):
        assert f'net: "{folder.as_posix()}/train_val.prototxt"' in (folder / solver).read_text()


def test_sizes_print_a_network(capsys):
    arguments = ["--actions", "3", "--size", "20x16", "--stack", "2", "--batch", "8"]
    assert generate_prototxt.main(arguments) == 0
    assert capsys.readouterr().out == generate_prototxt.q_network("snake", 3, 2, 20, 16, batch=8)


def test_architecture_can_be_chosen(capsys):
    assert generate_prototxt.main(["--game", "ddq/Snake-v0", "--arch", "mlp"]) == 0
    assert capsys.readouterr().out == generate_prototxt.q_network("mlp", 4, 2, 16, 16)


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


@pytest.mark.parametrize("size", ["84", "84xx84", "wide"])
def test_size_must_be_two_numbers(size, capsys):
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
    assert finished.stdout == generate_prototxt.q_network("nature", 6, 4, 84, 84)
