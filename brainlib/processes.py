"""What processes that work side by side have in common."""

import multiprocessing
import os
import threading


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
