"""What executors are sent."""

import subprocess
import sys
import tarfile
import zipfile

import pytest

from barista.spark import shipping


def test_the_zip_holds_what_a_barista_imports(tmp_path):
    path = shipping.write_pyfiles(tmp_path / "new" / "files.zip")
    names = set(zipfile.ZipFile(path).namelist())
    assert {
        "replay.py",
        "barista/__main__.py",
        "caffe/__init__.py",
        "param_server/client.py",
    } <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests")]


def test_a_barista_starts_from_the_zip_alone(tmp_path):
    path = shipping.write_pyfiles(tmp_path / "files.zip")
    code = (
        "import sys; sys.path[:] = [p for p in sys.path if 'distributed' not in p]\n"
        f"sys.path.insert(0, {str(path)!r})\n"
        "import barista.__main__, barista.assembly, caffe, replay\n"
        "print(barista.__file__, caffe.__file__, caffe.Net)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.count("files.zip") == 2


@pytest.mark.slow
def test_an_environment_brings_interpreter_packages_and_code(tmp_path):
    """Of the packages two small ones: the engine alone would take a minute."""
    path = shipping.write_environment(tmp_path / "new" / "environment.tar.gz", ["requests"])
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path / "there", filter="data")
    code = (
        "import sys, ssl, ctypes, requests, urllib3; from barista.spark import shipping; "
        "shipping.write_pyfiles('again.zip'); "
        "print(sys.prefix, requests.__file__, shipping.__file__, sep='\\n')"
    )
    done = subprocess.run(
        ["there/bin/python", "-I", "-c", code],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.count(f"{tmp_path}/there") == 3
    assert not list((tmp_path / "there").rglob("pytest"))
    # What is installed sends the same code on: a driver that was itself sent there.
    again = set(zipfile.ZipFile(tmp_path / "again.zip").namelist())
    assert {"replay.py", "caffe/net.py", "param_server/client.py"} <= again


def test_spark_and_extras_stay_at_home():
    packages = shipping._with_needs(["distributed-deep-q"])
    assert {"torch", "numpy", "ale-py", "urllib3"} <= packages
    assert not packages & {"pyspark", "py4j", "pytest", "ruff"}
