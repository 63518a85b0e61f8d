"""DDQ_CAFFE: another caffe package takes this one's place, from wherever it is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from barista.spark import shipping

ROOT = Path(__file__).resolve().parents[2]
PLAIN = ROOT / "tests/plain_pycaffe"
OURS = str(ROOT / "caffe/python/caffe/__init__.py")
PROBE = (
    "import caffe.proto, caffe, sys; from caffe.proto import caffe_pb2\n"
    "assert sys.modules['caffe'] is caffe and caffe.proto.caffe_pb2 is caffe_pb2\n"
    "print(caffe.__file__, hasattr(caffe, 'CaffeError'), 'caffe.errors' in sys.modules, sep='\\n')"
)


def run(arguments, cwd="/", **env):
    env = {**os.environ, **{name: str(value) for name, value in env.items()}}
    return subprocess.run(arguments, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def probe(cwd="/", **env):
    done = run([sys.executable, "-c", PROBE], cwd, **env)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.fixture
def other(tmp_path):
    """A folder that holds a caffe package of a few lines."""
    package = tmp_path / "other" / "caffe"
    (package / "proto").mkdir(parents=True)
    (package / "__init__.py").write_text("import os, caffe.pycaffe\nfrom . import proto\n")
    (package / "pycaffe.py").write_text("")
    (package / "proto/__init__.py").write_text("")
    (package / "proto/caffe_pb2.py").write_text("")
    return package.parent


@pytest.mark.parametrize("cwd", [ROOT, ROOT / "param-server", "/"])
def test_it_takes_the_place_from_everywhere(other, cwd):
    """From a checkout by the shim, from elsewhere by the editable install."""
    assert probe(cwd, DDQ_CAFFE=other) == [str(other / "caffe/__init__.py"), "False", "False"]


def test_it_takes_the_place_on_the_path_of_2015(other):
    path = os.pathsep.join((str(ROOT), str(ROOT / "caffe/python")))
    assert probe(PYTHONPATH=path, DDQ_CAFFE=other)[0] == str(other / "caffe/__init__.py")


def test_it_takes_the_place_of_code_that_was_shipped(other, tmp_path):
    path = shipping.write_pyfiles(tmp_path / "files.zip")
    assert probe(PYTHONPATH=path)[0] == str(path / "caffe/__init__.py")
    assert probe(PYTHONPATH=path, DDQ_CAFFE=other)[0] == str(other / "caffe/__init__.py")


def test_its_folder_may_be_relative(other):
    assert probe(other.parent, DDQ_CAFFE="other")[0] == str(other / "caffe/__init__.py")


@pytest.mark.parametrize("folder", ["", ROOT, ROOT / "caffe/python"])
@pytest.mark.parametrize("cwd", [ROOT, "/"])
def test_a_folder_that_holds_this_package_is_this_package(cwd, folder):
    """The checkout's root holds the shim, caffe/python the package itself."""
    assert probe(cwd, DDQ_CAFFE=folder)[:2] == [OURS, "True"]


def test_glog_is_told_to_be_quiet_unless_it_was_told_something(other):
    (other / "caffe/__init__.py").write_text("import os\nlevel = os.environ['GLOG_minloglevel']\n")
    command = [sys.executable, "-c", "import caffe; print(caffe.level)"]
    env = {"DDQ_CAFFE": other}
    assert run(command, **env).stdout == "2\n"
    assert run(command, **env, GLOG_minloglevel="0").stdout == "0\n"


def test_a_package_that_fails_leaves_none_behind(other):
    (other / "caffe/__init__.py").write_text("1 / 0\n")
    code = (
        "import sys\ntry:\n    import caffe\n"
        "except ZeroDivisionError:\n    print('caffe' in sys.modules)\n"
    )
    assert run([sys.executable, "-c", code], DDQ_CAFFE=other).stdout == "False\n"


@pytest.mark.parametrize(
    "command",
    [
        ["ddq.py"],
        ["param-server/server.py", "--port", "0"],
        ["-m", "barista"],
        ["-m", "barista.play", "somewhere"],
    ],
)
def test_a_folder_without_the_package_is_one_line(command, tmp_path):
    done = run([sys.executable, *command], ROOT, DDQ_CAFFE=tmp_path, DDQ_ROOT=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"DDQ_CAFFE={tmp_path}: this folder holds no caffe package\n"
