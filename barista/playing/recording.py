"""Write what a screen shows as a video: `.mp4` (H.264, by PyAV) or `.gif` (by Pillow).

Both libraries are optional and imported when a video is asked for.  A video is written under a
name that nobody looks for, and gets its own once it is whole: an episode that is interrupted
leaves nothing.
"""

from __future__ import annotations

import importlib
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from barista import games

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from barista.games.screen import Screen
    from barista.games.vector import UInt8
    from barista.playing.episodes import Terms

SMALL = 256  # pixels of height; smaller screens are doubled in an mp4
_NEEDS = {".mp4": ("av", "av"), ".gif": ("PIL.Image", "pillow")}  # module, and package to install


class RecordingError(ValueError):
    """A video cannot be written; the message is one line for the user."""


def check(path: Path) -> None:
    """See that a video can be written to `path`, before anything is played.

    Raises:
        RecordingError: If its suffix is unknown, a library or the folder is missing.
    """
    if path.suffix.lower() not in _NEEDS:
        raise RecordingError(f"--record {path}: a video's name ends in .mp4 or .gif")
    module, package = _NEEDS[path.suffix.lower()]
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise RecordingError(
            f"--record {path}: {path.suffix} needs {package}: pip install "
            f"'distributed-deep-q[record]' ({error})"
        ) from error
    if not path.parent.is_dir():
        raise RecordingError(f"--record {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise RecordingError(f"--record {path}: this is a folder")


def check_screen(terms: Terms) -> None:
    """See that a game shows pictures, before anything is played.

    Raises:
        barista.games.GameError: If it does not.
    """
    screen = _screen(terms)
    try:
        screen.reset()
    finally:
        screen.close()


def record(path: Path, terms: Terms, actions: Iterable[int]) -> int:
    """Write the first episode of an evaluation as a video; return the number of its pictures.

    The game is played again, in colours and full size: it is a function of its seed and actions.

    Args:
        path: As of `write`.
        terms: Of the evaluation.
        actions: All of that episode.

    Raises:
        RecordingError: If it cannot be written; then nothing is left of it.
        barista.games.GameError: If the game shows no pictures.
    """
    screen = _screen(terms)
    try:
        pictures = chain([screen.reset()], map(screen.step, actions))
        return write(path, pictures, screen.fps)
    finally:
        screen.close()


def write(path: Path, pictures: Iterable[UInt8], pictures_per_s: float) -> int:
    """Write a video; return the number of its pictures.

    Args:
        path: The file, as `check` has found good; one that is there is replaced.
        pictures: uint8 [H, W, 3] each, RGB, all of one size.
        pictures_per_s: How fast they are shown.

    Raises:
        RecordingError: If it cannot be written; then nothing is left of it.
    """
    unfinished = path.with_name(f".{path.stem}.unfinished{path.suffix}")
    count = 0
    try:
        with _in_one_line(path):
            writer = _WRITERS[path.suffix.lower()](unfinished, pictures_per_s)
        for picture in pictures:
            with _in_one_line(path):
                writer.add(picture)
            count += 1
        with _in_one_line(path):
            writer.finish()
            unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return count


def _screen(terms: Terms) -> Screen:
    """Return the screen of the first copy of the first block."""
    return games.make_screen(terms.game, seed=terms.seed_of(0), protocol=terms.protocol)


@contextmanager
def _in_one_line(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # what both libraries raise
        reason = getattr(error, "strerror", None) or error
        raise RecordingError(f"--record {path}: {reason}") from error


class Writer(Protocol):
    """Turns pictures into a file."""

    def add(self, picture: UInt8) -> None:
        """Add a picture, uint8 [H, W, 3], RGB."""

    def finish(self) -> None:
        """Write what is not written yet."""


class Mp4:
    """H.264 in yuv420p, which every browser plays.  It keeps colour at half the resolution.

    So a small screen is doubled, and loses none of its colours.
    """

    def __init__(self, path: Path, pictures_per_s: float) -> None:
        import av  # noqa: PLC0415 (optional)

        self._new_picture = av.VideoFrame.from_ndarray
        self._container = av.open(str(path), "w", format="mp4")
        self._stream: Any = self._container.add_stream(
            "libx264", rate=Fraction(pictures_per_s).limit_denominator(1000)
        )
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {"crf": "18"}  # hardly to be told from the original
        self._is_sized = False

    def add(self, picture: UInt8) -> None:
        """Encode a picture, uint8 [H, W, 3]."""
        if picture.shape[0] < SMALL:
            picture = picture.repeat(2, axis=0).repeat(2, axis=1)  # [2H, 2W, 3]
        odd = [size % 2 for size in picture.shape[:2]]
        if any(odd):
            picture = np.pad(picture, ((0, odd[0]), (0, odd[1]), (0, 0)), mode="edge")
        if not self._is_sized:
            self._stream.height, self._stream.width = picture.shape[:2]
            self._is_sized = True
        frame = self._new_picture(np.ascontiguousarray(picture), format="rgb24")
        self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Flush the encoder and close the file."""
        if self._is_sized:
            self._container.mux(self._stream.encode())
        self._container.close()


class Gif:
    """A GIF that repeats for ever, with a palette of its own for each picture."""

    def __init__(self, path: Path, pictures_per_s: float) -> None:
        from PIL import Image  # noqa: PLC0415 (optional)

        self._image = Image
        self._path = path
        # Viewers take durations below 20 ms for a mistake, and show such pictures for 100 ms.
        self._duration_ms = max(20, round(1000 / pictures_per_s))
        self._pictures: list[Any] = []

    def add(self, picture: UInt8) -> None:
        """Keep a picture, uint8 [H, W, 3], with at most 256 colours: an Atari has 128."""
        self._pictures.append(self._image.fromarray(picture).quantize(256))

    def finish(self) -> None:
        """Write the file."""
        if self._pictures:
            self._pictures[0].save(
                self._path,
                save_all=True,
                append_images=self._pictures[1:],
                duration=self._duration_ms,
                loop=0,
            )


_WRITERS: dict[str, Callable[[Path, float], Writer]] = {".mp4": Mp4, ".gif": Gif}
