"""What is said of a file that cannot be read: one kind of error, on one line, naming no patient."""

import re
import textwrap
from collections.abc import Callable
from typing import TypeVar

from brainlib.imaging.threads import silenced
from brainlib.paths import BrainlibError

_REASON_LENGTH = 300  # decoders answer with pages
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_PREFACE = "Unable to decode as exceptions were raised by all available plugins:"
_QUOTED = re.compile(r"""(['"]).*?(\1|$)""", re.DOTALL)

Result = TypeVar("Result")


class ImageError(BrainlibError):
    """A picture that cannot be read, or too many of them."""


def quietly(read: Callable[[], Result]) -> Result:
    """Call what reads a file; whatever it raises or warns of becomes one kind of error, or none.

    Raises
    ------
    ImageError
    """
    try:
        with silenced():
            return read()
    except (ImageError, KeyboardInterrupt, SystemExit):
        raise
    except StopIteration:
        raise ImageError("it holds fewer slices than it says; copy it again") from None
    except BaseException as error:  # decoders written in Rust panic, which is no Exception
        raise ImageError(f"{reason(error)}; copy it again from where it came") from error


def reason(error: BaseException) -> str:
    """Return what went wrong, without what it quotes: that comes from the file."""
    if isinstance(error, AttributeError) and "Pixel Data" in str(error):
        return "it holds no pixel data"
    if isinstance(error, MemoryError):
        return "there is not enough memory for it"
    if isinstance(error, OSError) and error.strerror:
        return f"it cannot be opened ({error.strerror})"
    text = str(error).removeprefix(_PREFACE).strip().removeprefix("brainlib: ")
    text = _QUOTED.sub("...", f"{type(error).__name__}: {text}")
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
