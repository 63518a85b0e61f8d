"""Real runs: spark-submit in a scratch folder, with every process of it marked."""

import os
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]


def environment(home):
    """Return what `activate` gives, plus a mark by which every descendant is found."""
    venv = Path(sys.prefix)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("DDQ_", "SPARK_", "PYSPARK_"))}
    activated = subprocess.run(
        ["sh", "-c", '. "$0" && env -0', str(venv / "ddq-env.sh")],
        env=env, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return {
        **dict(line.split("=", 1) for line in activated.split("\0") if line),
        "PATH": f"{venv / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "DDQ_ROOT": str(home),
        "DDQ_TEST_MARK": uuid.uuid4().hex,
        "OMP_NUM_THREADS": "1",
    }


def marked(env):
    """Return the living processes that carry this environment's mark."""
    found = []
    for process in psutil.process_iter():
        try:
            is_ours = process.environ().get("DDQ_TEST_MARK") == env["DDQ_TEST_MARK"]
            if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


class Site:
    """A scratch DDQ_ROOT and the commands that are run in it."""

    def __init__(self, home):
        self.home = home
        self.env = environment(home)
        self.logs = home / "logs"
        self.started = []

    def command(self, *options, master="local[2,4]", spark_options=()):
        return ["spark-submit", "--master", master, *spark_options, str(ROOT / "ddq.py"), *options]

    def start(self, arguments, **keywords):
        """Start a command in a process group of its own, its output in files."""
        name = self.home / f"command-{len(self.started)}"
        with Path(f"{name}.out").open("w") as out, Path(f"{name}.err").open("w") as err:
            process = subprocess.Popen(
                arguments, env=self.env | keywords.pop("more_env", {}),
                cwd=keywords.pop("cwd", self.home), stdout=out, stderr=err,
                stdin=subprocess.DEVNULL, start_new_session=True, **keywords,
            )  # fmt: skip
        process.out, process.err = Path(f"{name}.out"), Path(f"{name}.err")
        self.started.append(process)
        return process

    def run(self, arguments, timeout_s=180, **keywords):
        """Run a command to its end; returns (exit code, stdout, stderr)."""
        process = self.start(arguments, **keywords)
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{arguments} hangs\n{self.story(process)}")
        return code, process.out.read_text(), process.err.read_text()

    def story(self, process):
        """Return all that was said, for a failure's message."""
        parts = [process.out, process.err, *sorted(self.logs.glob("*.log"))]
        return "\n".join(f"== {p.name}\n{p.read_text()[-3000:]}" for p in parts if p.exists())

    def wait_for(self, condition, process, timeout_s=90):
        """Wait until `condition()` is truthy while `process` runs; returns its value."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            value = condition()
            if value:
                return value
            if process.poll() is not None:
                break
            time.sleep(0.1)
        return pytest.fail(f"it did not come to that\n{self.story(process)}")

    def find(self, *words):
        """Return a living process of this site whose command line has these words, or None."""
        for process in marked(self.env):
            try:
                if set(words) <= set(process.cmdline()):
                    return process
            except psutil.Error:
                continue
        return None

    def clear(self):
        """Kill whatever is left."""
        for process in marked(self.env):
            with suppress(psutil.Error):
                process.kill()
        for process in self.started:
            process.wait(30)

    def assert_nothing_left(self, but=()):
        """See that no process is left, but for these and what they consist of."""
        kept = {process.pid for process in but}
        gone_by = time.monotonic() + 10
        while (left := [p for p in marked(self.env) if p.pid not in kept]) and (
            time.monotonic() < gone_by
        ):
            time.sleep(0.1)
        if left:
            names = [f"{p.pid} {p.status()} {' '.join(p.cmdline())[:300]}" for p in left]
            pytest.fail("\n".join(["left behind:", *names]))
