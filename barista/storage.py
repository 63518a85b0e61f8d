"""Where the arrays of a replay buffer live, if not simply in memory.

`MappedFolder` keeps each array in a file that is mapped into memory, so that a buffer may be larger
than the memory and outlives its process.  `CompressedMemory` keeps frames deflated one by one.

A mapped folder holds ``<array>.bin`` for every array, ``replay.json``, which says what they are and
is written last, ``lock``, which one process at a time holds, and, while a fresh one is being filled
from elsewhere, ``unfinished``.  What a process has stored in a
mapping is the system's to keep, so a killed process loses nothing; the order in which the buffer
stores (see `replay`) makes what it leaves whole.  A crash of the machine may lose more, and what it
damages is found if an invariant of the buffer shows it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import mmap
import os
import sys
import weakref
import zlib
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from barista.config import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from numpy.typing import DTypeLike, NDArray

    Spec: TypeAlias = tuple[tuple[int, ...], DTypeLike]  # an array's shape and dtype

FORMAT = 1
HEADER = "replay.json"
_RAW_DEFLATE = -zlib.MAX_WBITS  # no header and no checksum: memory needs neither


class StorageError(ConfigError):
    """A replay folder cannot be used as asked; the message is one line that names the fix."""


class Storage(Protocol):
    """Gives a buffer its arrays."""

    def allocate(
        self, specs: Mapping[str, Spec], sizes: Mapping[str, float | None]
    ) -> Mapping[str, Any]:
        """Return the arrays by name: all zero, or as a buffer of the same sizes left them.

        Of the one called "frames" a buffer uses ``frames[row] = frame``, `nbytes`, and
        ``frames.take(rows, axis=0, mode="clip")`` with rows int64 of any shape.
        """

    def damaged(self, reason: str) -> Exception:
        """Return what to raise when the arrays are not as a buffer leaves them."""

    def all_or_nothing(self) -> AbstractContextManager[None]:
        """Keep for another process what is stored meanwhile if it comes to its end, and only then.

        An exception ends it too soon, and so does the process's death.
        """

    def close(self) -> None:
        """Let go of the arrays, which must not be used afterwards."""


def open_storage(
    folder: Path | None, *, compress: bool, settings: Mapping[str, Any]
) -> Storage | None:
    """Return the storage that was asked for; None for plain memory.

    Args:
        folder: of a mapped buffer, made if need be; None to stay in memory.
        compress: keep frames compressed in memory.
        settings: what the transitions depend on beside the buffer's sizes, as JSON values.

    Raises:
        StorageError: If the folder cannot be made, or another process uses it.
    """
    if folder is not None:
        return MappedFolder(folder, settings)
    return CompressedMemory() if compress else None


class MappedFolder:
    """Arrays in the files of a folder, which belongs to this process until `close`."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._folder, self._settings = folder, settings
        self._unfinished = folder / "unfinished"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StorageError(f"--replay-dir: {folder}: {error.strerror}") from error
        self._let_go = weakref.finalize(self, os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._let_go()
            raise StorageError(
                f"--replay-dir: {folder} is in use by another process: end that, or give another"
            ) from error

    def allocate(
        self, specs: Mapping[str, Spec], sizes: Mapping[str, float | None]
    ) -> dict[str, NDArray[Any]]:
        """Return the arrays by name, as `Storage` has it.

        Raises:
            StorageError: If the folder holds another buffer or a damaged one, or if there is no
                room for a new one.
        """
        header = {"format": FORMAT, **sizes, **self._settings}
        header |= {
            name: f"{np.dtype(dtype)} {list(shape)}" for name, (shape, dtype) in specs.items()
        }
        try:
            if self._unfinished.exists():
                (self._folder / HEADER).unlink(missing_ok=True)
                self._unfinished.unlink()
            if (self._folder / HEADER).exists():
                self._compare(json.loads(json.dumps(header)))
            else:
                self._create(specs, header)
            return {name: self._map(name, *spec) for name, spec in specs.items()}
        except OSError as error:
            self.close()
            fix = "ask for a smaller --replay-capacity, or " if error.errno == errno.ENOSPC else ""
            raise StorageError(
                f"--replay-dir: {self._folder}: {error.strerror}: {fix}give another folder"
            ) from error

    def damaged(self, reason: str) -> StorageError:
        """Let go of the folder, and return what to raise."""
        self.close()
        return StorageError(
            f"--replay-dir: {self._folder} is damaged ({reason}): remove it to begin anew"
        )

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Have the folder begin anew if what is stored meanwhile does not come to its end."""
        self._unfinished.touch()
        yield
        self._unfinished.unlink()

    def close(self) -> None:
        """Let others have the folder, which must not be stored to any more."""
        self._let_go()

    def _compare(self, wanted: Mapping[str, Any]) -> None:
        """Compare the header with what is asked for."""
        try:
            found = dict(json.loads((self._folder / HEADER).read_text()))
        except (ValueError, TypeError) as error:
            raise self.damaged(f"{HEADER} is no header") from error
        for name in {**wanted, **found}:
            if wanted.get(name) != found.get(name):
                self.close()
                raise StorageError(
                    f"--replay-dir: {self._folder} was made with {name} {found.get(name)}, not "
                    f"{wanted.get(name)}: give the same options again, or remove it to begin anew"
                )

    def _create(self, specs: Mapping[str, Spec], header: Mapping[str, Any]) -> None:
        """Make the files, all zero; the header last, so that it never heads half a buffer."""
        try:
            for name, (shape, dtype) in specs.items():
                with self._file(name).open("wb") as file:
                    # Taken from the disk now: a full one would later kill the process that stores.
                    os.posix_fallocate(file.fileno(), 0, _nbytes(shape, dtype))
        except OSError:
            for name in specs:
                self._file(name).unlink(missing_ok=True)
            raise
        unfinished = self._folder / f".{HEADER}"
        unfinished.write_text(json.dumps(header, indent=1))
        unfinished.replace(self._folder / HEADER)

    def _map(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return the array that a file holds."""
        try:
            with self._file(name).open("r+b") as file:
                size, expected = os.fstat(file.fileno()).st_size, _nbytes(shape, dtype)
                if size != expected:
                    raise self.damaged(f"{name}.bin has {size} bytes, expected {expected}")
                return np.frombuffer(mmap.mmap(file.fileno(), size), dtype).reshape(shape)
        except FileNotFoundError as error:
            raise self.damaged(f"{name}.bin is missing") from error

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.bin"


class CompressedMemory:
    """Arrays in memory, the frames deflated."""

    def allocate(
        self, specs: Mapping[str, Spec], _sizes: Mapping[str, float | None]
    ) -> dict[str, Any]:
        """Return the arrays by name, as `Storage` has it."""
        arrays: dict[str, Any] = {
            name: np.zeros(*spec) for name, spec in specs.items() if name != "frames"
        }
        return {**arrays, "frames": CompressedFrames(*specs["frames"])}

    def damaged(self, reason: str) -> StorageError:
        """Return an error that cannot occur: nothing outlives the process."""
        return StorageError(f"the compressed replay is damaged ({reason})")

    def all_or_nothing(self) -> AbstractContextManager[None]:
        """Do nothing: memory goes with the process."""
        return nullcontext()

    def close(self) -> None:
        """Do nothing: memory goes with the buffer."""


class CompressedFrames:
    """As much of an array of frames as a replay buffer uses, each frame deflated by itself.

    Level 1 with fixed codes is the fastest of what the standard library has, both ways, and on
    frames of Atari games within a tenth of the size that dynamic codes give.
    """

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self._shape, self._dtype = shape[1:], np.dtype(dtype)
        zero = self._deflated(np.zeros(self._shape, self._dtype))
        self._frames: list[bytes] = [zero] * shape[0]
        #: Bytes of all frames as they are kept, and of their list; a zero frame in rows yet unused.
        self.nbytes = sys.getsizeof(self._frames) + sys.getsizeof(zero) * shape[0]

    def __setitem__(self, row: int, frame: NDArray[Any]) -> None:
        deflated = self._deflated(frame)
        self.nbytes += sys.getsizeof(deflated) - sys.getsizeof(self._frames[row])
        self._frames[row] = deflated

    def take(
        self, rows: NDArray[np.int64] | list[int], *, axis: int = 0, mode: str = "clip"
    ) -> NDArray[Any]:
        """Return the frames of `rows`, of any shape; the rest is as a buffer asks for it."""
        del axis, mode
        rows = np.asarray(rows)
        each, inverse = np.unique(rows, return_inverse=True)
        size = _nbytes(self._shape, self._dtype)
        frames = np.empty((len(each), *self._shape), self._dtype)
        for frame, row in zip(frames, each.tolist(), strict=True):
            inflated = zlib.decompress(self._frames[row], _RAW_DEFLATE, size)
            frame[...] = np.frombuffer(inflated, self._dtype).reshape(self._shape)
        return frames[inverse.reshape(rows.shape)]

    @staticmethod
    def _deflated(frame: NDArray[Any]) -> bytes:
        deflater = zlib.compressobj(1, zlib.DEFLATED, _RAW_DEFLATE, strategy=zlib.Z_FIXED)
        return deflater.compress(frame.tobytes()) + deflater.flush()


def _nbytes(shape: tuple[int, ...], dtype: DTypeLike) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize
