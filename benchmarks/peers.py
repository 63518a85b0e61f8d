"""An environment of their own for the peers of all benchmarks, made once: ``.venv/peers``.

Pinned here, and by the project's constraints wherever these name a package: so PyTorch, NumPy and
the emulator are the same for all.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / ".venv/peers"
CONSTRAINTS = ROOT / "constraints.txt"
PACKAGES = (
    "stable-baselines3==2.9.2",
    "cpprb==11.0.0",
    "gymnasium",
    "ale-py",
    "opencv-python-headless",  # what their wrappers resize frames with
    "tensorboard==2.21.0",  # CleanRL's script writes for it
    "psutil",  # what benchmarks that run there measure with
    "setuptools",  # which brings `distutils`, as that script wants, to newer Pythons
)
# Without what it asks for, which is of 2023: its script runs on the packages above.
CLEANRL = ("--no-deps", "--ignore-requires-python", "cleanrl==1.2.0")
NAMED = ("stable-baselines3", "cleanrl", "cpprb", "torch", "gymnasium", "ale-py", "numpy")


def environment(home: Path = HOME) -> Path:
    """Return the Python of the peers; install them first, unless that was done before.

    Raises:
        RuntimeError: If they cannot be installed; the message ends with what pip said.
    """
    python, stamp = home / "bin/python", home / ".installed"
    wanted = digest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    print("Installing the peers, once: a minute or two, about 1.2 GB on disk", file=sys.stderr)
    venv.create(home, clear=True, with_pip=True)
    constraints = ("--constraint", str(CONSTRAINTS))
    # torch first and by its pinned version: an open range can choose a build of several gigabytes.
    _pip(python, *constraints, _pinned("torch"))
    _pip(python, *constraints, *PACKAGES)
    _pip(python, *CLEANRL)
    stamp.write_text(wanted)
    return python


def versions(python: Path) -> dict[str, str]:
    """Return the versions of what takes part, package to version."""
    command = [str(python), "-m", "pip", "list", "--format", "json"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = {each["name"].replace("_", "-"): each["version"] for each in json.loads(listed)}
    return {name: found[name] for name in NAMED}


def digest() -> str:
    """Return what tells one environment of the peers from another."""
    text = repr((sys.version_info[:2], PACKAGES, CLEANRL, CONSTRAINTS.read_text()))
    return f"{zlib.crc32(text.encode()):08x}"


def _pinned(name: str) -> str:
    lines = CONSTRAINTS.read_text().splitlines()
    return next(line for line in lines if line.startswith(f"{name}=="))


def _pip(python: Path, *arguments: str) -> None:
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    done = subprocess.run([*command, *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the peers cannot be installed: {done.stderr[-1500:]}")
