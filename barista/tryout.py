"""A Barista's start without a server: engine, device, network, game, and what they take.

`python -m barista.tryout` reads one JSON object from stdin, {config, net, gpu, threads}, and prints
one, {engine, memory} or {error}.  `ddq.py --doctor` has executors run it, as they would a Barista.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

from param_server.errors import UserMistake


def main() -> int:
    """Try; returns 0, whatever has come of it: what is printed says it."""
    question = json.loads(sys.stdin.readline())
    try:
        answer: dict[str, Any] = {"engine": _start(question), "memory": _peak_bytes()}
    except (ImportError, OSError, RuntimeError, UserMistake, ValueError) as error:
        answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


def _start(question: dict[str, Any]) -> str:
    """Make what a Barista makes of its orders; returns the engine's file."""
    # Here, so that a package that is missing is said, not a traceback.
    import caffe  # noqa: PLC0415
    from barista import assembly, games  # noqa: PLC0415
    from barista.config import AgentConfig  # noqa: PLC0415

    config = AgentConfig.from_json(question["config"])
    own = assembly.hands(config, threads=question["threads"], gpu=question["gpu"])
    with tempfile.TemporaryDirectory(prefix="ddq-") as folder:
        net = Path(folder, "train_val.prototxt")
        net.write_text(question["net"])
        nets = assembly.load(net, config)
        game = games.make(
            config.game,
            num_envs=config.num_envs,
            seed=config.seed,
            threads=own.threads.games,
            protocol=config.protocol,
        )
        try:
            game.reset()
            assembly.make_learner(nets, config, game.spec.num_actions)
        finally:
            game.close()
    return str(caffe.__file__)


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
