"""HDF5Data: batches of rows from HDF5 files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from caffe.errors import CaffeError
from caffe.files import hdf5_array, hdf5_member, read_bytes, reading_hdf5
from caffe.layer import register
from caffe.layers.data import Source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from caffe.blob import Blob


@register("HDF5Data")
class HDF5Data(Source):
    """Row after row of the datasets that are named as the tops, file after file, over and over.

    `source` is a text file that lists the HDF5 files, relative to the working folder.  A file is
    read whole when its turn comes; a batch may begin in one file and end in another.
    """

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Read the list and the first file; shape the tops [batch_size, ...a row's shape]."""
        param = self.param.hdf5_data_param
        self.require(
            not self.param.HasField("transform_param"),
            "does not transform data; write the files as the net needs them, without "
            "transform_param",
        )
        self.require(param.batch_size, "batch_size must be positive")
        try:
            names = read_bytes(param.source).decode(errors="surrogateescape").split()
        except CaffeError as error:
            raise CaffeError(f"{self.label}: source, a list of HDF5 files: {error}") from None
        self.require(names, f"source {param.source} lists no files; give a path in each line")
        self._names = names
        self._files = self._order(len(names))
        self._rows: list[Tensor] = []  # of the file being read, a tensor for each top
        self._load(0)
        for blob, rows in zip(top, self._rows, strict=True):
            blob.resize((param.batch_size, *rows.shape[1:]))

    def _order(self, count: int) -> Tensor:
        """Return the numbers below count, shuffled if the user wants that."""
        shuffle = self.param.hdf5_data_param.shuffle
        return torch.randperm(count) if shuffle else torch.arange(count)

    def _load(self, turn: int) -> None:
        """Read the file whose turn it is, and go to its first row.

        Raises:
            CaffeError: If its datasets are not what the tops need; nothing has changed.
        """
        path = self._names[int(self._files[turn])]
        try:
            with reading_hdf5(path) as file:
                read = [
                    torch.from_numpy(
                        hdf5_array(hdf5_member(file, name), f"{path}: '{name}', named by a top,")
                    )
                    for name in self.param.top
                ]
        except CaffeError as error:
            raise CaffeError(f"{self.label}: {error}") from None
        for name, rows in zip(self.param.top, read, strict=True):
            self.require(rows.dim() and len(rows), f"{path}: '{name}' has no rows")
            self.require(
                len(rows) == len(read[0]),
                f"{path}: '{name}' has {len(rows)} rows, but '{self.param.top[0]}' {len(read[0])}",
            )
        for name, rows, before in zip(self.param.top, read, self._rows or read, strict=True):
            self.require(
                rows.shape[1:] == before.shape[1:],
                f"{path}: a row of '{name}' has the shape {list(rows.shape[1:])}, but in the "
                f"files before it {list(before.shape[1:])}",
            )
        self._rows, self._turn = read, turn
        self._row_order, self._row = self._order(len(read[0])), 0

    def _go_on(self) -> None:
        """Go to the next file, or to the first row of the only one."""
        if len(self._names) == 1:
            self._row_order, self._row = self._order(len(self._row_order)), 0
        elif self._turn + 1 < len(self._names):
            self._load(self._turn + 1)
        else:
            self._files = self._order(len(self._names))
            self._load(0)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Write the next batch."""
        size, done = self.param.hdf5_data_param.batch_size, 0
        while done < size:
            taken = self._row_order[self._row : self._row + size - done]
            for blob, rows in zip(top, self._rows, strict=True):
                blob.data_tensor[done : done + len(taken)] = rows[taken]
            done += len(taken)
            self._row += len(taken)
            if self._row == len(self._row_order):
                self._go_on()
