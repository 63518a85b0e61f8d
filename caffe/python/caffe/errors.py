"""What goes wrong in the engine.

- CaffeError (a ValueError): a net, solver, weights file or call that Caffe would not accept
    - CaffeFileError: a file that is missing or cannot be read
    - CaffeCallError: arguments that a call cannot take

The last two are RuntimeErrors too, as in pycaffe.
"""


class CaffeError(ValueError):
    """A net, solver, weights file or call that Caffe would not accept."""


class CaffeFileError(CaffeError, RuntimeError):
    """A file that is missing or cannot be read."""

    def __init__(self, path: object) -> None:
        super().__init__(f"Could not open file {path}")


class CaffeCallError(CaffeError, RuntimeError):
    """Arguments that a call cannot take."""


def require(condition: object, message: str) -> None:
    """Raise CaffeError with the message unless the condition holds."""
    if not condition:
        raise CaffeError(message)
