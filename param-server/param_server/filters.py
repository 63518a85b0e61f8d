"""The first layer's filters as pictures: what the network looks for in its frames."""

from __future__ import annotations

import base64
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from param_server.store import Store
    from param_server.wire import Float32

_MOST = (64, 16, 16, 16)  # filters, channels, rows, columns that are shown


class Filters:
    """The filters of a network's first convolution: its first parameter with four dimensions.

    Safe to call from many threads.  All of them share one copy of the weights, and a picture is
    drawn once for each version that is asked for.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        entries = zip(store.layout.entries, store.layout.slices(), strict=True)
        banks = [(entry, part) for entry, (_, part) in entries if len(entry.shape) == 4]
        self._bank = banks[0] if banks else None
        self._lock = threading.Lock()
        self._known: tuple[int, int] | None = None
        self._picture: dict[str, Any] = {}

    @property
    def exist(self) -> bool:
        """Whether the network has such a layer."""
        return self._bank is not None

    def picture(self) -> dict[str, Any] | None:
        """Return the filters as JSON, None where there are none.

        ``pixels`` is base64 of uint8 [N, C, H, W], of the ``shape`` given: 128 is zero, 1 or 255
        the largest magnitude.  Of a very large layer a corner is shown; ``layer_shape`` is whole.
        """
        if self._bank is None:
            return None
        entry, part = self._bank
        with self._lock:
            weights = np.empty(self._store.layout.size, np.float32)
            model = self._store.read(self._known, out=weights)
            if model is not None:
                self._known = model.epoch, model.version
                pixels = draw(weights[part].reshape(entry.shape))
                self._picture = {
                    "layer": entry.name,
                    "layer_shape": list(entry.shape),
                    "shape": list(pixels.shape),
                    "pixels": base64.b64encode(pixels.tobytes()).decode(),
                    "version": model.version,
                }
            return self._picture


def draw(filters: Float32) -> NDArray[np.uint8]:
    """Return filters, float32 [N, C, H, W], as uint8: zero is 128, the extremes 1 and 255."""
    corner = filters[tuple(slice(most) for most in _MOST)]
    shown = np.nan_to_num(corner, posinf=0.0, neginf=0.0)
    largest = float(np.abs(shown).max(initial=0.0)) or 1.0
    pixels: NDArray[np.uint8] = (np.rint(shown / largest * 127) + 128).astype(np.uint8)
    return pixels
