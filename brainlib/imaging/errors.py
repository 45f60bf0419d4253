"""Errors of unreadable files: one class, one line, no patient data."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from brainlib.paths import BrainlibError

# what these doubt about a file may quote it, and so name the patient
warnings.filterwarnings("ignore", module=r"(pydicom|PIL|nibabel)(\.|$)")


class ImageError(BrainlibError):
    """An image that cannot be read, or too many of them."""


@contextmanager
def reading() -> Iterator[None]:
    """Turn whatever a block or function that reads a file raises into one kind of error.

    It does not repeat what was raised, which may quote the file, and so name the patient.

    Raises
    ------
    ImageError
    """
    try:
        yield
    except ImageError:
        raise
    except Exception as error:
        reason = "it is cut short or damaged"
        if isinstance(error, OSError) and error.strerror:
            reason = f"it cannot be opened ({error.strerror})"
        if isinstance(error, MemoryError):
            reason = "there is not enough memory to decode it"
        raise ImageError(f"{reason}; copy it again from where it came") from error


def readable(name: str) -> str:
    r"""Return a name that can be stored: bytes that are no UTF-8 are written as code.

    Examples
    --------
    >>> readable("J\udcf6rg.png")
    'J\\xf6rg.png'
    """
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def one_line(text: str) -> str:
    r"""Return a text on one line that can be printed and stored: what cannot is written as code.

    Examples
    --------
    >>> one_line("slice\n7\x1b\udcff.png")
    'slice 7\\x1b\\xff.png'
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in readable(" ".join(text.splitlines()))
    )
