"""What decoding in many threads at once has to share: the silence, and the memory."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

LARGE = 16_000_000
"""Pixels or voxels from which on one is decoded after the other."""

_lock = threading.Lock()
_large = threading.Lock()
_silences: list[warnings.catch_warnings] = []
_users = 0


@contextmanager
def silenced() -> Iterator[None]:
    """Ignore warnings inside the block, in one thread or in many.

    `warnings.catch_warnings` alone keeps and restores the filters of the whole process: of two
    threads that overlap, the later would restore the silence of the earlier, for good. Here the
    first that enters silences, and the last that leaves restores.

    Examples
    --------
    >>> with silenced():
    ...     warnings.warn("the file is odd", stacklevel=1)
    """
    _enter()
    try:
        yield
    finally:
        _leave()


@contextmanager
def sharing_memory(size: int) -> Iterator[None]:
    """Let one of the large be decoded at a time, so that several together do not fill the memory.

    A block must not give anything out while it is inside: who waits for it may wait for another.

    Parameters
    ----------
    size : int
        Pixels or voxels.
    """
    if size < LARGE:
        yield
    else:
        with _large:
            yield


def _enter() -> None:
    global _users
    with _lock:
        if not _users:
            silence = warnings.catch_warnings()
            silence.__enter__()
            warnings.simplefilter("ignore")
            _silences.append(silence)
        _users += 1


def _leave() -> None:
    global _users
    with _lock:
        _users -= 1
        if not _users:
            _silences.pop().__exit__(None, None, None)
