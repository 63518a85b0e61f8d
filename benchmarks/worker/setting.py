"""What is the same for all contenders: the work.  Standard library only."""

from __future__ import annotations

import argparse
from pathlib import Path

GAME = "ALE/Pong-v5"
PEERS_GAME = "PongNoFrameskip-v4"  # the same game; their wrappers skip the frames
TARGET_STEPS = 2000  # agent steps between two refreshes of the target network
LEAD = 20  # gradients before a loop counts as warm


def peer_parser() -> argparse.ArgumentParser:
    """Return the parser of a peer's command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True, help="for whatever it writes")
    parser.add_argument("--envs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--capacity", type=int, required=True, help="transitions in the replay")
    parser.add_argument("--warmup", type=int, required=True, help="agent steps before gradients")
    parser.add_argument("--epsilon", type=float, required=True, help="once warm")
    return parser
