"""A run that is killed leaves no worker behind, and each process knows its own memory."""

import subprocess
import sys

import numpy as np

from brainlib.processes import peak_memory

PROGRAM = """
import multiprocessing, time
from concurrent.futures import ProcessPoolExecutor
from brainlib.processes import end_with_parent

def work():
    print("at work", flush=True)
    time.sleep(600)

if __name__ == "__main__":
    spawned = multiprocessing.get_context("spawn")
    ProcessPoolExecutor(1, spawned, initializer=end_with_parent).submit(work).result()
"""


def test_a_worker_ends_with_the_process_that_started_it(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    process = subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "at work\n"
    process.kill()
    process.communicate(timeout=60)  # returns once no process is left that could write


def test_the_memory_of_a_process_is_not_that_of_the_one_that_started_it():
    held = np.ones(2**27, np.uint8)
    program = "from brainlib.processes import peak_memory; print(peak_memory())"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert 2**20 < int(result.stdout) < held.nbytes < peak_memory()
