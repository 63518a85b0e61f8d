"""Reading and writing whole files, and HDF5; no PyTorch.

A file is taken to be damaged or hostile until it is read: nothing here costs more time or memory
than the file's own size, or what the reader asked for, explains, and all that goes wrong is a
CaffeError.  Writing leaves the new file or the old one, never a part.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from caffe.errors import CaffeError, CaffeFileError, require

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

#: The largest message that protobuf can hold, in bytes.
MAX_MESSAGE = 2**31 - 1
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_HDF5_ERRORS = (  # what h5py makes of damaged files
    OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError,
    MemoryError,
)  # fmt: skip
# A few bytes of HDF5 may claim a dataset of any size.  So much is believed of any file, in bytes,
# and of a large one so many times its size: more is hardly reached by compressing real data.
_BELIEVED, _BELIEVED_RATIO = 1 << 26, 64
_MAX_STRING = 1 << 16


def _reason(error: Exception) -> object:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _check_regular(path: str | os.PathLike[str]) -> int:
    """Return the size of a file.

    Raises:
        CaffeFileError: If it is missing, or no regular file (reading a pipe might never end).
    """
    try:
        status = os.stat(path)  # noqa: PTH116  # Path() refuses some paths by other errors
    except (OSError, ValueError) as error:
        raise CaffeFileError(path, _reason(error)) from None
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "no regular file"
        raise CaffeFileError(path, f"it is {kind}")
    return status.st_size


def read_bytes(path: str | os.PathLike[str], limit: int = MAX_MESSAGE) -> bytes:
    """Return the content of a file.

    Raises:
        CaffeFileError: If it cannot be read.
        CaffeError: If it is larger than limit bytes.
    """
    size = _check_regular(path)
    require(size <= limit, f"{path} has {size} bytes; such a file has {limit} at most")
    try:
        return Path(path).read_bytes()
    except (OSError, MemoryError) as error:
        raise CaffeFileError(path, _reason(error)) from None


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file, or leave what was there.

    Raises:
        CaffeFileError: If that fails.
    """
    try:
        target = Path(path).resolve()  # a symbolic link stays one
        require(target.is_file() or not target.exists(), "it is no regular file")
        temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
        try:
            with temporary.open("xb") as file:
                file.write(content)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise CaffeFileError(path, _reason(error), action="write") from None


def is_hdf5(path: str | os.PathLike[str]) -> bool:
    """Return whether the file is HDF5, by its name as in Caffe, or by its first bytes.

    Raises:
        CaffeFileError: If it cannot be read.
    """
    _check_regular(path)
    try:
        with Path(path).open("rb") as file:
            return str(path).endswith(".h5") or file.read(len(_HDF5_MAGIC)) == _HDF5_MAGIC
    except OSError as error:
        raise CaffeFileError(path, _reason(error)) from None


@contextlib.contextmanager
def reading_hdf5(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Open an HDF5 file for the functions below; h5py is imported only here.

    Raises:
        CaffeFileError: If it cannot be opened.
        CaffeError: If it is no HDF5 file, or if reading, inside the `with`, finds it damaged.
    """
    import h5py  # noqa: PLC0415  # only those who use the format pay for it

    _check_regular(path)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except CaffeError:
        raise
    except _HDF5_ERRORS as error:
        raise CaffeError(f"{path} is damaged, or no HDF5 file: {_reason(error)}") from None


def write_hdf5(path: str | os.PathLike[str], values: dict[str, Any]) -> None:
    """Write an HDF5 file of datasets by their paths; None makes a group.

    Raises:
        CaffeFileError: If that fails.
    """
    import h5py  # noqa: PLC0415  # as above

    try:
        with h5py.File("memory", "w", driver="core", backing_store=False) as file:
            for name, value in values.items():
                if value is None:
                    file.create_group(name)
                else:
                    file[name] = value
            file.flush()
            content = file.id.get_file_image()
    except _HDF5_ERRORS as error:
        raise CaffeFileError(path, _reason(error), action="write") from None
    write_bytes(path, content)


def hdf5_member(group: Any, name: str) -> Any:
    """Return the group or dataset of this name in a group; None if there is none.

    Raises:
        CaffeError: If it is a link, which might lead to any file.
    """
    import h5py  # noqa: PLC0415  # as above

    key = name.encode(errors="surrogateescape")
    if "/" in name or not group.id.links.exists(key):
        return None
    require(
        group.id.links.get_info(key).type == h5py.h5l.TYPE_HARD,
        f"{group.file.filename}: '{name}' in '{group.name}' is a link; links are not followed, "
        "so copy the data into the file",
    )
    return group[name]


def hdf5_array(dataset: Any, where: str, expected: int = 0) -> NDArray[np.float32]:
    """Return the values of a dataset, of which the caller knows to expect so many.

    Raises:
        CaffeError: If it is no dataset of numbers, or claims more than the file can hold.
    """
    import h5py  # noqa: PLC0415  # as above

    require(
        isinstance(dataset, h5py.Dataset)
        and dataset.shape is not None
        and dataset.id.get_type().get_class() in (h5py.h5t.FLOAT, h5py.h5t.INTEGER),
        f"{where} is no dataset of numbers",
    )
    require(
        not dataset.is_virtual and not dataset.external,
        f"{where} has its values in other files, which are not read",
    )
    width = dataset.dtype.itemsize
    claimed = max(dataset.size, math.prod(dataset.chunks or ())) * width
    size = dataset.file.id.get_filesize()
    require(
        claimed <= max(_BELIEVED, _BELIEVED_RATIO * size, expected * width),
        f"{where} claims {claimed} bytes in a file of {size}; if they are real, write them "
        "without compression and in smaller chunks",
    )
    with np.errstate(over="ignore", invalid="ignore"):  # too large: infinite
        return np.asarray(dataset[()], np.float32)


def hdf5_int(dataset: Any, where: str) -> int:
    """Return the integer that a dataset holds.

    Raises:
        CaffeError: If it holds no integer, or more than one.
    """
    import h5py  # noqa: PLC0415  # as above

    require(
        isinstance(dataset, h5py.Dataset)
        and dataset.size == 1
        and dataset.id.get_type().get_class() == h5py.h5t.INTEGER,
        f"{where} is no integer",
    )
    return int(dataset[()].reshape(-1)[0])


def hdf5_string(dataset: Any, where: str) -> str:
    """Return the string that a dataset holds.

    Raises:
        CaffeError: If it holds something else.
    """
    import h5py  # noqa: PLC0415  # as above

    require(
        isinstance(dataset, h5py.Dataset)
        and dataset.size == 1
        and h5py.check_string_dtype(dataset.dtype) is not None
        and dataset.dtype.itemsize <= _MAX_STRING,
        f"{where} is no string",
    )
    value = np.asarray(dataset[()]).reshape(-1)[0]
    return os.fsdecode(value.rstrip(b"\0"))
