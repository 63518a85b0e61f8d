"""The rules by which Atari games are trained on and scored, by name.

- `nature`: Mnih et al., 2015 (Methods: preprocessing, training details, evaluation procedure;
  extended data table 1).  A lost life ends an episode in training, and in training alone.
- `ale`: Machado et al., 2018: a game ends when it is over, lives or not (section 3.1.1); an action
  is now and then repeated instead of the next one obeyed (sticky actions, section 5.2), which
  replaces the no-ops at the start; all 18 actions (9 in two games that the emulator gives no
  more); a frame skip of 5 and five minutes an episode, as in its experiments.  Common practice
  under the same name is laxer: Gymnasium's v5 games and Dopamine skip 4 frames and play for half an
  hour, mostly with the minimal set of actions.
- `ddq`, the default: the games of `nature`, played to their end in training too.

What the papers leave open is decided here.  Nature sets no limit to episodes in training: half an
hour.  Machado et al. score the episodes of training itself, so they name no exploration rate for an
evaluation: ours is that of `ddq`.

Other games have rules of their own: for them a protocol only says how an evaluation is played.
"""

from __future__ import annotations

from dataclasses import dataclass

from barista.games.errors import GameError

_FIVE_MINUTES = 18_000  # frames, at 60 a second
_HALF_AN_HOUR = 108_000


@dataclass(frozen=True)
class Protocol:
    """The rules of one protocol.  Frames are the emulator's, 60 a second."""

    name: str
    frame_skip: int  # frames that one action lasts; the network sees the maximum of the last two
    noop_max: int  # the most no-op frames with which an episode begins; their number is drawn
    sticky: float  # probability, at each frame, that the emulator goes on with the last action
    full_actions: bool  # all actions of the console, or those that the game answers to
    life_loss_ends: bool  # in training, a lost life is the end for the learner
    max_frames: int  # of an evaluated episode, without no-ops; truncated there
    training_max_frames: int  # the same in training
    evaluation_epsilon: float  # share of random actions in an evaluation
    evaluation_episodes: int = 30

    def frame_limit(self, *, evaluation: bool) -> int:
        """Return the frames after which an episode is truncated."""
        return self.max_frames if evaluation else self.training_max_frames


PROTOCOLS = {
    each.name: each
    for each in (
        Protocol(
            "ddq",
            frame_skip=4,
            noop_max=30,
            sticky=0.0,
            full_actions=False,
            life_loss_ends=False,
            max_frames=_HALF_AN_HOUR,
            training_max_frames=_HALF_AN_HOUR,
            evaluation_epsilon=0.01,
        ),
        Protocol(
            "nature",
            frame_skip=4,
            noop_max=30,
            sticky=0.0,
            full_actions=False,
            life_loss_ends=True,
            max_frames=_FIVE_MINUTES,
            training_max_frames=_HALF_AN_HOUR,
            evaluation_epsilon=0.05,
        ),
        Protocol(
            "ale",
            frame_skip=5,
            noop_max=0,
            sticky=0.25,
            full_actions=True,
            life_loss_ends=False,
            max_frames=_FIVE_MINUTES,
            training_max_frames=_FIVE_MINUTES,
            evaluation_epsilon=0.01,
        ),
    )
}


def named(name: str) -> Protocol:
    """Return the protocol of a name.

    Raises:
        GameError: If there is none; says which there are.
    """
    if name not in PROTOCOLS:
        raise GameError(f"no protocol {name}; there are {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
