"""Experience as Parquet: what a replay holds, written when it is closed, and read into another.

A folder of experience has a file for each worker, `worker-<ordinal>.parquet`, and `_settings.json`,
which says of what game the steps are.  A row is a frame, kept once, and what was done at it; the
last frame of an episode has no action.  Rows are in order: of an environment, an episode, a step.
Rewards are those of single steps, so that experience may be learned from with another γ and
n-step.  Only episodes whose beginning is still held are written: the first states of others would
lack frames.  An episode under way counts as truncated at its newest frame.

A file written by Spark will do, in this order, beside a copy of `_settings.json`.
"""

from __future__ import annotations

import json
import math
import sys
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from barista.config import ConfigError
from replay import ReplayBuffer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from barista.config import AgentConfig
    from barista.games.vector import GameSpec
    from barista.storage import Storage

SETTINGS = "_settings.json"  # Spark passes over such names
FORMAT = 1
BATCH = 1024  # rows in memory at a time
_WHERE = ("environment", "episode", "step")
SCHEMA = pa.schema(
    {
        "environment": pa.int32(),
        "episode": pa.int64(),
        "step": pa.int32(),  # from 0
        "frame": pa.binary(),  # row by row, of the shape and dtype in the settings
        "action": pa.int32(),  # taken at this frame; null at the last one of an episode
        "reward": pa.float32(),  # that followed, as it was learned from: clipped, if at all
        "terminal": pa.bool_(),  # whether the episode ended with that
        "truncated": pa.bool_(),  # whether it was cut off after that
    }
)


class ExperienceError(ConfigError):
    """Experience cannot be read or written; the message is one line that names the fix."""


class Episode(NamedTuple):
    """T steps of one environment."""

    rows: NDArray[np.int64]  # [T + 1], of its frames
    actions: list[int]  # [T]
    rewards: list[float]  # [T]
    terminal: bool


def settings(config: AgentConfig, spec: GameSpec) -> dict[str, Any]:
    """Return what two runs must share to learn from the same steps, as a JSON object."""
    return {
        "format": FORMAT,
        "game": config.game,
        "protocol": config.protocol,
        "reward_clip": config.reward_clip,
        "actions": spec.num_actions,
        "frame_shape": list(spec.frame_shape),
        "frame_dtype": np.dtype(spec.dtype).name,
    }


class KeptReplay(ReplayBuffer):
    """A replay buffer that writes its episodes to a file when it is closed."""

    def keep(self, folder: Path, ordinal: int, told: dict[str, Any]) -> None:
        """Have `close` write to `folder`, for the worker of that ordinal, under these settings.

        Raises:
            ExperienceError: If nothing can be written there, which is better known now.
        """
        self._file = folder / f"worker-{ordinal}.parquet"
        header = folder / f"_worker-{ordinal}.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            header.write_text(json.dumps(told, indent=1) + "\n")
            header.replace(folder / SETTINGS)
        except OSError as error:
            raise ExperienceError(
                f"--replay-to {folder}: {error.strerror}: name a folder that workers may write to"
            ) from error

    def close(self) -> None:
        """Write the episodes, and let go of the storage.

        Where they can no longer be written a line on stderr says so: the run has ended well all the
        same.
        """
        unfinished = self._file.with_name(f"_{self._file.name}")
        try:
            self._write_file(unfinished)
            unfinished.replace(self._file)
        except OSError as error:
            with suppress(OSError):
                unfinished.unlink()
            sys.stderr.write(f"warning: --replay-to {self._file.parent}: {error}\n")
        finally:
            super().close()

    def episodes(self, env: int) -> Iterator[Episode]:
        """Yield the episodes of an environment whose first frames are held, oldest first."""
        written = self._written[env]
        rows = env * self._length + (
            np.arange(max(0, written - self._length), written) % self._length
        )
        spans = self._spans[rows]
        # Transitions stand in runs: the last frame of an episode never begins one.
        edges = np.flatnonzero(np.diff(np.concatenate([[False], spans > 0, [False]])))
        for first, end in edges.reshape(-1, 2).tolist():
            # It began before what is held; a state of one frame does not show that.
            is_cut = first == 0 and self._stack == 1 and written > self._length
            if self._depths[rows[first]] or is_cut:
                continue
            rewards: list[float] = []
            if spans[end - 1] > 1:  # it has not ended
                if self._steps[env] == -1 or end + self._n_step != len(rows):
                    continue  # and never will: an earlier process was killed
                rewards = [float(reward) for reward in reversed(self._pending[env])]
            # Newest first: what a window holds beyond its first reward is known by then.
            for row in rows[first:end][::-1].tolist():
                later = rewards[: -int(self._spans[row]) : -1]
                known = math.fsum(self._powers[k + 1] * each for k, each in enumerate(later))
                rewards.append(float(self._rewards[row]) - known)
            frames = rows[first : first + len(rewards) + 1]
            terminal = spans[end - 1] == 1 and not self._discounts[rows[end - 1]]
            yield Episode(
                frames, self._actions[frames[:-1]].tolist(), rewards[::-1], bool(terminal)
            )

    def _write_file(self, path: Path) -> None:
        with pq.ParquetWriter(path, SCHEMA, compression="zstd") as file:
            for env in range(self._num_envs):
                for number, episode in enumerate(self.episodes(env)):
                    for begin in range(0, len(episode.rows), BATCH):
                        file.write_batch(self._batch_of(episode, begin, (env, number)))

    def _batch_of(self, episode: Episode, begin: int, where: tuple[int, int]) -> pa.RecordBatch:
        """Return at most BATCH rows of an episode, from step `begin`."""
        rows = episode.rows[begin : begin + BATCH]
        steps = range(begin, begin + len(rows))
        ends = [step == len(episode.actions) - 1 for step in steps]
        columns = {
            "environment": [where[0]] * len(rows),
            "episode": [where[1]] * len(rows),
            "step": list(steps),
            "frame": [each.tobytes() for each in self._frames.take(rows, axis=0, mode="clip")],
            "action": [*episode.actions, None][begin : begin + BATCH],
            "reward": [*episode.rewards, None][begin : begin + BATCH],
            "terminal": [is_end and episode.terminal for is_end in ends],
            "truncated": [is_end and not episode.terminal for is_end in ends],
        }
        return pa.RecordBatch.from_pydict(columns, schema=SCHEMA)


def check(config: AgentConfig, spec: GameSpec) -> None:
    """See, before anything is started, that experience can be written and read as asked.

    Raises:
        ExperienceError: If not.
    """
    folder = Path(config.replay_to)
    try:
        # The settings alone are what a run left that came to no end.
        held = folder.iterdir() if config.replay_to and folder.exists() else ()
        if any(file.name != SETTINGS for file in held):
            raise ExperienceError(f"--replay-to {folder} holds something: name a new folder")
    except OSError as error:
        raise ExperienceError(f"--replay-to {folder}: {error.strerror}") from error
    if config.replay_from:
        _files(Path(config.replay_from), settings(config, spec))


def _files(folder: Path, wanted: dict[str, Any]) -> list[Path]:
    """Return the files of a folder of experience, in order."""
    try:
        found = dict(json.loads((folder / SETTINGS).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ExperienceError(
            f"--replay-from {folder}: no {SETTINGS} that can be read: name a folder that "
            "--replay-to has written"
        ) from error
    for name, value in wanted.items():
        if found.get(name) != value:
            raise ExperienceError(
                f"--replay-from {folder} was made with {name} {found.get(name)}, not {value}: "
                "give the same options, or another folder"
            )
    files = sorted(file for file in folder.glob("*.parquet") if file.name[0] not in "_.")
    if not files:
        raise ExperienceError(f"--replay-from {folder}: there is no *.parquet in it")
    return files


def attach(
    replay: ReplayBuffer,
    config: AgentConfig,
    spec: GameSpec,
    *,
    ordinal: int,
    storage: Storage | None = None,
) -> None:
    """Fill a new buffer as `--replay-from` asks, and have it kept as `--replay-to` asks.

    One that has experience already, from `--replay-dir`, is not filled.

    Args:
        replay: the buffer; with `--replay-to` a `KeptReplay`.
        config: of the run.
        spec: of its game.
        ordinal: of the worker.
        storage: of the buffer's arrays, if not simply memory.

    Raises:
        ExperienceError: If a file is damaged, or of another game, or none can be written.
    """
    if isinstance(replay, KeptReplay):
        replay.keep(Path(config.replay_to), ordinal, settings(config, spec))
    if config.replay_from and not replay.size:
        with storage.all_or_nothing() if storage else nullcontext():
            load(replay, config, spec, ordinal=ordinal)


def load(replay: ReplayBuffer, config: AgentConfig, spec: GameSpec, *, ordinal: int) -> None:
    """Fill an empty buffer with a worker's share: of all episodes every `config.workers`-th.

    What is more than the buffer holds is forgotten, the oldest first, as ever.

    Raises:
        ExperienceError: If a file is damaged, or of another game.  The buffer must not be used.
    """
    folder = Path(config.replay_from)
    loader = _Loader(replay, config, spec, ordinal)
    for path in _files(folder, settings(config, spec)):
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(BATCH, columns=SCHEMA.names):
                    loader.add(batch.cast(SCHEMA).to_pylist())
            loader.end()
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            reason = str(error).partition("\n")[0]
            raise ExperienceError(
                f"--replay-from: {path} is damaged ({reason}): remove it"
            ) from error


class _Loader:
    """Adds rows to a buffer: a worker's share of the episodes, its environments in turn."""

    def __init__(
        self, replay: ReplayBuffer, config: AgentConfig, spec: GameSpec, ordinal: int
    ) -> None:
        self._replay, self._spec = replay, spec
        self._workers, self._num_envs = config.workers, config.num_envs
        self._ordinal = ordinal % config.workers
        self._episodes = 0  # begun so far
        self._env: int | None = None  # where the episode goes; None: it is another worker's
        self._previous: dict[str, Any] | None = None  # the row before, of the same episode

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Add rows in order.

        Raises:
            ValueError: If they are none of this game's, or not in order.
        """
        for row in rows:
            self._expect_place(row)
            if self._env is not None:
                self._put(row, self._env)
            self._previous = None if row["action"] is None else row

    def end(self) -> None:
        """See that the last episode is whole.

        Raises:
            ValueError: If it is not.
        """
        if self._previous is not None:
            raise ValueError("its last episode has no end")

    def _expect_place(self, row: dict[str, Any]) -> None:
        """See that a row follows the one before; a new episode is given its environment."""
        previous = self._previous
        expected = {"step": 0}
        if previous is not None:
            expected = {**{name: previous[name] for name in _WHERE}, "step": previous["step"] + 1}
        if any(row[name] != value for name, value in expected.items()):
            raise ValueError(f"rows are out of order: sort by {', '.join(_WHERE)}")
        if previous is None:
            turn, owner = divmod(self._episodes, self._workers)
            self._env = turn % self._num_envs if owner == self._ordinal else None
            self._episodes += 1

    def _put(self, row: dict[str, Any], env: int) -> None:
        spec, previous = self._spec, self._previous
        frame = np.frombuffer(row["frame"], spec.dtype).reshape(spec.frame_shape)
        if previous is None:
            self._replay.start(env, frame)
            return
        action, reward = previous["action"], previous["reward"]
        if not 0 <= action < spec.num_actions or not math.isfinite(reward):
            raise ValueError(f"action {action} with reward {reward} cannot be")
        is_last = row["action"] is None
        terminal = bool(is_last and previous["terminal"])
        self._replay.append(
            env, action, reward, frame, terminated=terminal, truncated=is_last and not terminal
        )
