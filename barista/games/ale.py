"""Atari 2600 games through ale-py's vector environment.

What they all have in common: 84×84 grey frames in stacks of 4, every action repeated for some
frames with the maximum of the last two shown, and raw rewards, so that returns are game scores; the
actor clips what it learns from.  The rest is a protocol's to say (`barista.games.protocol`).

A lost life is made the learner's end of an episode here.  The emulator's own `episodic_life` starts
a whole new game at each lost life, so that nobody ever learns to play on; Mnih et al., 2015, go on
in the same game.  As in their program, a no-op leads from one life to the next and the stack begins
with zero frames again; other than there, the action that loses a life is repeated to the end of its
frames, and no further no-ops follow.

Every argument of `AtariVectorEnv` is given here, because its defaults are traps: it clips rewards,
and `gymnasium.make_vec` of the same id makes actions sticky.  A test compares the names with the
installed version's signature.
"""

from __future__ import annotations

import functools
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import ale_py
import numpy as np
from ale_py import roms
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode

from barista.games.errors import UnsupportedGameError
from barista.games.vector import Bool, GameSpec, Int64, Tally, UInt8, VectorStep

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from barista.games.protocol import Protocol

FRAME_SHAPE = (84, 84)
STACK = 4
NOOP = 0  # in every game that has lives to lose (a test looks)


def settings(
    rom: str, rules: Protocol, *, num_envs: int, threads: int, evaluation: bool
) -> dict[str, Any]:
    """Return all arguments of `AtariVectorEnv` for a ROM such as "ms_pacman"."""
    return {
        "game": rom,
        "num_envs": num_envs,
        "batch_size": 0,  # all of them: step and reset are synchronous, in the copies' order
        "num_threads": threads,
        "thread_affinity_offset": -1,  # the operating system places the threads
        "max_num_frames_per_episode": rules.frame_limit(evaluation=evaluation),
        "repeat_action_probability": rules.sticky,
        "full_action_space": rules.full_actions,
        "continuous": False,
        "continuous_action_threshold": 0.5,  # without effect: actions are discrete
        "autoreset_mode": AutoresetMode.NEXT_STEP,
        "img_height": FRAME_SHAPE[0],
        "img_width": FRAME_SHAPE[1],
        "grayscale": True,
        "stack_num": STACK,
        "frameskip": rules.frame_skip,
        "maxpool": True,
        "noop_max": rules.noop_max + 1,  # the emulator draws a number below it
        "episodic_life": False,
        "life_loss_info": False,
        "reward_clipping": False,
        "use_fire_reset": False,  # the agent learns to press fire
    }


class AleVector:
    """N copies of an Atari game as one `VectorGame`.  Not thread-safe.

    Args:
        game: its Gymnasium id.
        rom: the ROM's name.
        rules: how it is played.
        seeds: one for each copy; they choose the numbers of no-ops and the sticky actions.
        threads: of the emulator.
        evaluation: whether lives are left alone, and the limit of frames is the evaluation's.

    Raises:
        UnsupportedGameError: If the ROM cannot be had.
    """

    def __init__(
        self,
        game: str,
        rom: str,
        rules: Protocol,
        *,
        seeds: Sequence[int],
        threads: int = 1,
        evaluation: bool = False,
    ) -> None:
        rom_path(game, rom)
        self.num_envs = len(seeds)
        self._seeds: Int64 | None = np.array(seeds, np.int64)
        self._envs = AtariVectorEnv(
            **settings(rom, rules, num_envs=self.num_envs, threads=threads, evaluation=evaluation)
        )
        num_actions = len(self._envs.ale.get_action_set())
        self.spec = GameSpec(game, num_actions, FRAME_SHAPE, STACK)
        self._states: UInt8 = np.zeros((self.num_envs, STACK, *FRAME_SHAPE), np.uint8)
        self._over = np.ones(self.num_envs, np.bool_)  # the next step starts a game
        self._tally = Tally(self.num_envs)
        self._lives = _Lives(self.num_envs) if rules.life_loss_ends and not evaluation else None

    def reset(self) -> UInt8:
        """Start a new episode everywhere; return its first frames, uint8 [N, 84, 84]."""
        self._states, info = self._envs.reset(seed=self._seeds)
        self._seeds = None  # a second reset with seeds would replay the same episodes
        self._over[:] = False
        self._tally.clear()
        if self._lives is not None:
            self._lives.reset(info["lives"])
        return self._states[:, -1]

    def send(self, actions: Int64) -> None:
        """Have the emulator's threads step or restart every copy; see `VectorGame`.

        Raises:
            ValueError: If there is no such action: the emulator would wait for ever.
        """
        if actions.min() < 0 or actions.max() >= self.spec.num_actions:
            raise ValueError(f"actions must lie below {self.spec.num_actions}, got {actions}")
        if self._lives is not None:
            actions = np.where(self._lives.is_lost, NOOP, actions)
        self._envs.send(actions)

    def receive(self) -> VectorStep:
        """Wait for the threads; see `VectorGame`."""
        is_reset = self._over
        self._states, scores, terminated, truncated, info = self._envs.recv()
        rewards = scores.astype(np.float32)
        self._over = terminated | truncated
        returns, lengths = self._tally.add(rewards, self._over, is_reset)
        if self._lives is not None:
            goes_on = self._lives.is_lost  # this was the no-op after a lost life
            lost = self._lives.count(info["lives"], is_reset, self._over)
            self._lives.blank(self._states)
            terminated = (terminated | lost) & ~goes_on
            truncated &= ~(lost | goes_on)
            rewards = np.where(goes_on, np.float32(0), rewards)
            is_reset = is_reset | goes_on
        return VectorStep(
            self._states[:, -1], rewards, terminated, truncated, is_reset, returns, lengths
        )

    def step(self, actions: Int64) -> VectorStep:
        """Send and receive."""
        self.send(actions)
        return self.receive()

    def states(self) -> UInt8:
        """Return the emulator's own stacks, uint8 [N, 4, 84, 84], fresh at every step."""
        return self._states

    def close(self) -> None:
        """Stop the emulator's threads, after the step under way."""
        self._envs.close()
        del self._envs


class _Lives:
    """The lives of N copies, and which of them a learner takes for episodes.  Not thread-safe."""

    def __init__(self, num_envs: int) -> None:
        #: bool [N]: a life was lost and the game goes on; the next step must be a no-op.
        self.is_lost: Bool = np.zeros(num_envs, np.bool_)
        self._left = np.zeros(num_envs, np.int64)
        self._stale = np.zeros(num_envs, np.int64)  # frames in a stack from a life before

    def reset(self, lives: Int64) -> None:
        """Begin new games with so many lives, [N]."""
        self._left = lives.copy()
        self.is_lost = np.zeros_like(self.is_lost)
        self._stale[:] = 0

    def count(self, lives: Int64, is_start: Bool, is_over: Bool) -> Bool:
        """Take note of the lives left, [N]; return where one was lost in this step.

        Args:
            lives: that are left now.
            is_start: bool [N], where the step began a game.
            is_over: bool [N], where it ended one.
        """
        lost: Bool = (lives < self._left) & ~is_start
        self._stale = np.where(self.is_lost, STACK - 1, np.maximum(self._stale - 1, 0))
        self._left, self.is_lost = lives.copy(), lost & ~is_over
        return lost

    def blank(self, states: UInt8) -> None:
        """Put zeros for what stacks, [N, C, H, W], hold of a life before."""
        for env in np.flatnonzero(self._stale):
            states[env, : self._stale[env]] = 0


class Cartridge(NamedTuple):
    """What is known of a game before it is played."""

    minimal_actions: int
    all_actions: int
    screen: tuple[int, int]  # height and width


@functools.cache
def cartridge(game: str, rom: str) -> Cartridge:
    """Look at a ROM; loads it once a process (about 0.1 s).

    Raises:
        UnsupportedGameError: If the ROM cannot be had.
    """
    path = rom_path(game, rom)
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # no banner on stderr
    emulator = ale_py.ALEInterface()
    emulator.loadROM(path)
    return Cartridge(
        len(emulator.getMinimalActionSet()),
        len(emulator.getLegalActionSet()),
        emulator.getScreenDims(),
    )


def spec_of(game: str, rom: str, rules: Protocol) -> GameSpec:
    """Return the spec of an Atari game.

    Raises:
        UnsupportedGameError: If the ROM cannot be had.
    """
    known = cartridge(game, rom)
    num_actions = known.all_actions if rules.full_actions else known.minimal_actions
    return GameSpec(game, num_actions, FRAME_SHAPE, STACK)


def rom_path(game: str, rom: str) -> Path:
    """Return where a ROM lies.

    Raises:
        UnsupportedGameError: If it is missing or is not the one that it should be.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it would only say what the error below says
            path = roms.get_rom_path(rom)
    except OSError as error:
        reason = " ".join(str(error).split())
    else:
        if path is not None:
            return path
        reason = "ale-py knows no such ROM"
    raise UnsupportedGameError(
        f"{game} needs the ROM {rom}.bin: {reason}; reinstall ale-py, which carries the ROMs, or "
        "set ALE_ROMS_DIR to a folder that has it"
    )
