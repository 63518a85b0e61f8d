"""What goes wrong in the engine.

- CaffeError (a ValueError): a net, solver, weights file or call that Caffe would not accept
    - CaffeFileError: a file that is missing, or cannot be read or written
    - CaffeCallError: arguments that a call cannot take

The last two are RuntimeErrors too, as in pycaffe.  What a message quotes comes from files, so it is
made one line of bearable length here.
"""

_HEAD, _TAIL = 800, 200  # characters kept of a longer message


class CaffeError(ValueError):
    """A net, solver, weights file or call that Caffe would not accept; says so in one line."""

    def __init__(self, message: object) -> None:
        text = str(message)
        if len(text) > _HEAD + _TAIL:
            text = f"{text[:_HEAD]} … {text[-_TAIL:]}"
        super().__init__(
            "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
        )


class CaffeFileError(CaffeError, RuntimeError):
    """A file that is missing, cannot be read or cannot be written."""

    def __init__(self, path: object, reason: object = "", *, action: str = "open") -> None:
        super().__init__(f"Could not {action} file {path}" + (f": {reason}" if reason else ""))


class CaffeCallError(CaffeError, RuntimeError):
    """Arguments that a call cannot take."""


def require(condition: object, message: str) -> None:
    """Raise CaffeError with the message unless the condition holds."""
    if not condition:
        raise CaffeError(message)
