"""Work spread over the workers of a running dask cluster, whichever kind it is.

Nothing lies between the caller and dask but the function that is mapped: the cluster is started by
its own means (`dask scheduler` and `dask worker`, SLURM, Kubernetes, SSH) and is left as it was.
"""

import gc
import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, wait
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

from brainlib.paths import BrainlibError, needs_extra

if TYPE_CHECKING:
    import distributed

LEAST_WAITING = 16
"""Tasks that a cluster holds at least; else two a thread, so that no thread waits for the next."""

CONNECT_SECONDS = 10

logger = logging.getLogger(__name__)


def connect(scheduler: str) -> "distributed.Client":
    """Connect to a running dask cluster.

    Parameters
    ----------
    scheduler : str
        Its address, such as `tcp://10.0.0.1:8786`.

    Raises
    ------
    BrainlibError
        Where dask is not installed, or nothing answers there.
    """
    with needs_extra("cluster"):
        from distributed import Client
    gc.collect()  # a client that is collected while another starts waits for a lock of the other
    try:
        # a notebook's own client stays the default one
        client = Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise BrainlibError(
            f"no scheduler answers at {scheduler!r} ({error or type(error).__name__}): start one "
            "with `dask scheduler` and give its address, such as tcp://10.0.0.1:8786"
        ) from error
    if not client.nthreads():
        logger.warning("%s has no workers yet: waiting for them", scheduler)
    return client


@contextmanager
def running(scheduler: str, workers: int) -> Iterator[str]:
    """Give the address of a cluster: the one that is named, or one of this machine's own."""
    if scheduler:
        yield scheduler
        return
    with needs_extra("cluster"):
        from distributed import LocalCluster
    # its processes end with this one, even if it is killed
    with LocalCluster(workers, threads_per_worker=1, memory_limit=None, dashboard_address=None,
                      silence_logs=logging.CRITICAL) as local:  # fmt: skip
        yield local.scheduler_address


def spread(
    function: Callable[[Any], Any], items: Iterable[Any], scheduler: str, retries: int = 0
) -> Iterator[tuple[int, Any, BaseException | None]]:
    """Call a function for each item on the workers of a cluster; give the results as they come.

    The cluster holds two items a thread and no more, however many there are. What a killed worker
    was working on is given to another one.

    Parameters
    ----------
    function : callable of one item
        Importable on the workers.
    items : iterable
        Whatever pickle can take.
    scheduler : str
        As `connect` takes it.
    retries : int
        So many times an item that failed is tried again.

    Yields
    ------
    place : int
        Of the item, from 0.
    result : object or None
    error : BaseException or None
        What the function raised, or dask's `KilledWorker` where the item took several workers down.

    Raises
    ------
    BrainlibError
        Where the scheduler does not answer, or no more, or the workers lack the function.
    """
    with connect(scheduler) as client:
        executor = client.get_executor(pure=False, retries=retries)

        def room() -> int:
            return max(LEAST_WAITING, 2 * sum(client.nthreads().values()))

        try:
            for place, future in submit(executor, function, items, room):
                error = future.exception()
                if "during deserialization" in str(error):
                    raise BrainlibError(
                        "the workers cannot load what they are to do "
                        f"({error.__cause__ or error}): install the same version of brainlib there"
                    ) from error
                yield place, None if error else future.result(), error
        except (OSError, TimeoutError, CancelledError) as error:
            # all are cancelled where the scheduler cannot be reached
            raise BrainlibError(
                f"the scheduler at {scheduler} answers no more: start the cluster again, and then "
                "this; what is done is kept"
            ) from error


def submit(
    executor: Executor, function: Callable, items: Iterable, room: Callable[[], int]
) -> Iterator[tuple[int, Future]]:
    """Yield the position of each item and its future as they come, `room()` of them at a time."""
    upcoming, running = enumerate(items), {}
    while True:
        for place, item in islice(upcoming, max(0, room() - len(running))):
            running[executor.submit(function, item)] = place
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            yield running.pop(future), future
