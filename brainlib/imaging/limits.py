"""Programs that decode what may be hostile, run within limits of time, memory and disk."""

import os
import subprocess
from typing import Any

MEMORY_BYTES = 8 * 2**30  # that a program may address
BLOCK_BYTES = 512


def run(command: list[str], seconds: int, disk_bytes: int, **options: Any) -> None:
    """Run a program silently until it ends, or reaches a limit.

    Parameters
    ----------
    command : list of str
    seconds : int
        Of computing; four times as many may pass on a busy machine.
    disk_bytes : int
        The longest file that it may write.
    **options
        For `subprocess.run`.

    Raises
    ------
    subprocess.TimeoutExpired
    """
    if os.name == "posix":
        limits = (
            f"ulimit -v {MEMORY_BYTES // 1024} 2>&-; ulimit -t {seconds}; ulimit -c 0; "
            f'ulimit -f {disk_bytes // BLOCK_BYTES + 1}; exec "$@"'
        )
        command = ["/bin/sh", "-c", limits, "sh", *command]
    silent = dict.fromkeys(("stdout", "stderr", "stdin"), subprocess.DEVNULL)
    subprocess.run(command, timeout=4 * seconds, **silent, **options)
