"""What every test shares: a hypothesis profile, one thread of arithmetic, no stray processes."""

import os
import shutil
import signal

import hypothesis
import psutil
import pytest

from tests import spark_site

# Torch and OpenBLAS read these when they are loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")

hypothesis.settings.register_profile("ddq", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ddq")


# A shell's background job ignores Ctrl-C, and its children would: those of tests must not.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def site(tmp_path):
    """A place for real runs; what they start is killed with the test."""
    if shutil.which("spark-submit", path=spark_site.environment(tmp_path)["PATH"]) is None:
        pytest.fail("spark-submit is missing: run scripts/test")
    site = spark_site.Site(tmp_path)
    yield site
    site.clear()


@pytest.fixture
def no_stray_processes():
    """Fail when a test leaves child processes behind."""
    before = set(psutil.Process().children(recursive=True))
    yield
    left = [p for p in psutil.Process().children(recursive=True) if p not in before]
    _, alive = psutil.wait_procs(left, timeout=5)
    named = [f"{p.pid} {' '.join(p.cmdline())}" for p in alive if p.status() != "zombie"]
    for process in alive:
        process.kill()
    assert not named, f"left behind: {named}"
