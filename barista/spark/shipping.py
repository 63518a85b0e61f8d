"""What executors are sent: our code as a zip, or an environment that carries its interpreter.

A virtual environment has no interpreter of its own, so it is of no use to hosts that have none: the
archive holds this one, its standard library, the packages that we need, and our code.  What it
takes from the operating system (the C library, OpenSSL) has to be there, as old as here or newer.
"""

from __future__ import annotations

import argparse
import re
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_ROOT = Path(__file__).resolve().parents[2]
_PROJECT = "distributed-deep-q"
# Spark brings its own to wherever a task runs.
_OF_SPARK = frozenset({"pyspark", "py4j"})
_LEFT_OUT = frozenset({"__pycache__", "site-packages", "dist-packages", "test", "idlelib"})
_LAUNCHER = """\
#!/bin/sh
# The interpreter that is shipped with this file, with its own libraries.
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
export LD_LIBRARY_PATH="$here/../lib${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"
exec "$here/{interpreter}" "$@"
"""


def write_pyfiles(path: str | Path) -> Path:
    """Write a zip for `--py-files` with what a Barista imports; returns its path."""
    target = _made(path)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, name in _sources():
            archive.write(file, name)
    return target


def write_environment(path: str | Path, packages: Iterable[str] = (_PROJECT,)) -> Path:
    """Write a .tar.gz for `--archives` whose bin/python needs nothing else; returns its path.

    Args:
        path: Of the file.
        packages: Distributions that go in, with what they need, but for Spark's.

    Raises:
        importlib.metadata.PackageNotFoundError: If one is not installed here.
    """
    target = _made(path)
    interpreter = Path(sys.executable).resolve()
    library = f"lib/{Path(sysconfig.get_path('stdlib')).name}"
    with (
        tempfile.TemporaryDirectory() as scratch,
        tarfile.open(target, "w:gz", compresslevel=1, dereference=True) as archive,
    ):
        launcher = Path(scratch, "python")
        launcher.write_text(_LAUNCHER.format(interpreter=interpreter.name))
        launcher.chmod(0o755)
        archive.add(launcher, "bin/python")
        archive.add(interpreter, f"bin/{interpreter.name}")
        for file in _shared_library():
            archive.add(file, f"lib/{file.name}")
        for file, name in _standard_library():
            archive.add(file, f"{library}/{name}")
        for file, name in _files_of(_with_needs(packages)):
            archive.add(file, f"{library}/site-packages/{name}")
        for file, name in _sources():
            archive.add(file, f"{library}/site-packages/{name}")
    return target


def _made(path: str | Path) -> Path:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _sources() -> Iterator[tuple[Path, str]]:
    yield _ROOT / "replay.py", "replay.py"
    for name, path in (
        ("barista", "barista"),
        ("caffe", "caffe/python/caffe"),
        ("param_server", "param-server/param_server"),
    ):
        # In the repository `caffe` is caffe/python/caffe (see setup.py), once installed it is not.
        folder = _ROOT / path if (_ROOT / path).is_dir() else _ROOT / name
        for file in sorted(folder.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                yield file, f"{name}/{file.relative_to(folder)}"


def _shared_library() -> Iterator[Path]:
    """Yield libpython, where the interpreter is linked to one."""
    name, folder = sysconfig.get_config_vars("INSTSONAME", "LIBDIR")
    file = Path(str(folder), str(name))
    if sysconfig.get_config_var("Py_ENABLE_SHARED") and file.exists():
        yield file


def _standard_library() -> Iterator[tuple[Path, str]]:
    folder = Path(sysconfig.get_path("stdlib"))
    for file in sorted(folder.rglob("*")):
        inside = file.relative_to(folder)
        if file.is_file() and not _LEFT_OUT & set(inside.parts) and file.suffix != ".a":
            yield file, str(inside)


def _with_needs(packages: Iterable[str]) -> set[str]:
    """Return distributions and all that they need, by their normalised names."""
    found: set[str] = set()
    waiting = [_normal(name) for name in packages]
    while waiting:
        name = waiting.pop()
        if name not in found | _OF_SPARK:
            found.add(name)
            waiting += _needs(name)
    return found


def _needs(package: str) -> set[str]:
    """Return what a distribution needs here, without its extras."""
    needs = [text.partition(";") for text in metadata.requires(package) or []]
    names = {
        _normal(re.match(r"[\w.-]+", wanted.strip())[0])  # type: ignore[index]
        for wanted, _, marker in needs
        if "extra" not in marker
    }
    # A marker that does not hold here names what is not installed here.
    return {name for name in names if _is_installed(name)}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _files_of(packages: Iterable[str]) -> Iterator[tuple[Path, str]]:
    for name in sorted(packages):
        for file in metadata.files(name) or []:
            outside = ".." in file.parts or file.suffix in {".pth", ".pyc"}
            if not outside and (path := Path(str(file.locate()))).is_file():
                yield path, str(file)


def main() -> None:
    """Write the files of `scripts/pyfiles`."""
    parser = argparse.ArgumentParser(prog="pyfiles", description=__doc__)
    parser.add_argument(
        "--environment", action="store_true", help="write the archive with an interpreter too"
    )
    folder = _ROOT / "dist"
    wants_environment = parser.parse_args().environment
    written = [write_pyfiles(folder / "ddq-pyfiles.zip")]
    if wants_environment:
        written.append(write_environment(folder / "ddq-environment.tar.gz"))
    for path in written:
        sys.stdout.write(f"{path} ({path.stat().st_size / 1e6:.0f} MB)\n")


if __name__ == "__main__":
    main()
