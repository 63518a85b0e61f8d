"""The same modules are found from everywhere, and the commands start."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROBE = (
    "import caffe, barista, param_server.wire, replay, ddq, sys; "
    "assert 'torch' not in sys.modules; "
    "print(caffe.__file__); caffe.Net"
)


def run(arguments, cwd, **env):
    return subprocess.run(
        arguments, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize("cwd", [ROOT, ROOT / "param-server", "/"])
def test_imports_are_the_same_from_everywhere(cwd):
    found = run([sys.executable, "-c", PROBE], cwd).strip()
    assert found == str(ROOT / "caffe/python/caffe/__init__.py")


def test_the_path_of_2015_is_enough():
    """No installation: PYTHONPATH as the seed's README has it."""
    path = os.pathsep.join((str(ROOT), str(ROOT / "caffe/python")))
    assert run([sys.executable, "-c", PROBE], "/", PYTHONPATH=path).strip().endswith("__init__.py")


@pytest.mark.parametrize(
    "command",
    [
        ["param-server/server.py", "--help"],
        ["-m", "barista", "--help"],
        ["-m", "barista.play", "--help"],
        ["ddq.py", "--help"],
        ["models/generate_prototxt.py", "--help"],
    ],
)
def test_every_command_explains_itself(command):
    assert "usage:" in run([sys.executable, *command], ROOT)


def test_the_ui_files_are_packaged():
    templates = ROOT / "param-server/param_server/templates"
    assert list(templates.glob("*.html"))
    assert '"templates/*"' in (ROOT / "setup.py").read_text()
