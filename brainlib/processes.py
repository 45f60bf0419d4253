"""What processes that work side by side have in common."""

import multiprocessing
import os
import sys
import threading
from pathlib import Path


def end_with_parent() -> None:
    """End this process as soon as the one that started it has ended, even by a kill.

    For the start of a worker of a `ProcessPoolExecutor`: one whose parent is gone would finish its
    training, and the next one that it has been sent, beside those of a run that is started again.
    What a training has done until its last epoch is kept.
    """

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def peak_memory() -> int:
    """Return the most memory that this process has held at once, bytes.

    Where Linux says it: `getrusage` counts what the process held that started this one.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text("utf-8").splitlines())
        return 1024 * int(lines["VmHWM"].split()[0])
    import resource  # Windows has none

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)
