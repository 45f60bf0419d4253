"""Errors of unreadable files: one class, one line, no patient data."""

import re
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

from brainlib.paths import BrainlibError

LARGE = 16_000_000
"""Pixels or voxels above which one is decoded at a time, whatever the number of threads."""

_REASON_LENGTH = 300  # decoders answer with pages
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_QUOTED = re.compile(r"""(['"]).*?(\1|$)""", re.DOTALL)

_lock = threading.Lock()
_large = threading.Lock()
_silences: list[warnings.catch_warnings] = []
_users = 0

Result = TypeVar("Result")


class ImageError(BrainlibError):
    """An image that cannot be read, or too many of them."""


def quietly(read: Callable[[], Result]) -> Result:
    """Call what reads a file; whatever it raises or warns of becomes one kind of error, or none.

    Raises
    ------
    ImageError
    """
    try:
        with silenced():
            return read()
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"{reason(error)}; copy it again from where it came") from error


def reason(error: Exception) -> str:
    """Return what went wrong, without what it quotes: that comes from the file."""
    if isinstance(error, MemoryError):
        return "there is not enough memory for it"
    if isinstance(error, OSError) and error.strerror:
        return f"it cannot be opened ({error.strerror})"
    text = _QUOTED.sub("...", f"{type(error).__name__}: {error}")
    text = _ADDRESS.sub("", text)  # of an object in memory, another in each run
    text = textwrap.shorten(text, _REASON_LENGTH, placeholder=" ...")
    return f"it cannot be decoded, cut short or damaged ({text})"


def one_line(text: str) -> str:
    r"""Return a text on one line that can be printed and stored: what cannot is written as code.

    Examples
    --------
    >>> one_line("slice\n7\x1b\udcff.png")
    'slice 7\\x1b\\udcff.png'
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in " ".join(text.splitlines())
    )


def sharing_memory(size: int) -> AbstractContextManager:
    """Let one large image be decoded at a time, so that several do not fill the memory.

    A block must not yield: who waits for it may wait for another.

    Parameters
    ----------
    size : int
        Pixels or voxels.
    """
    return nullcontext() if size < LARGE else _large


@contextmanager
def silenced() -> Iterator[None]:
    """Ignore warnings inside the block, in one thread or in many.

    `warnings.catch_warnings` alone restores the filters of the whole process: of two threads that
    overlap, the later would restore the silence of the earlier. Here the first silences, and the
    last restores.
    """
    global _users
    with _lock:
        if not _users:
            _silences.append(warnings.catch_warnings())
            _silences[0].__enter__()
            warnings.simplefilter("ignore")
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _silences.pop().__exit__(None, None, None)
