"""Whether a gradient may enter a solver's history at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from param_server.wire import Float32, Layout


def first_not_finite(layout: Layout, gradient: Float32) -> str:
    """Return the first parameter whose squares do not sum to a finite number, "" if none.

    A gradient that large would leave infinity in Adam's or RMSProp's history for ever.  One pass
    over everything settles the usual case.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(np.dot(gradient, gradient)):
            return ""
        squares = {
            name: float(np.dot(gradient[part], gradient[part])) for name, part in layout.slices()
        }
    for name, square in squares.items():
        if not np.isfinite(square):
            return name
    return max(squares, key=squares.__getitem__)
