"""A run that is killed leaves no worker behind."""

import subprocess
import sys

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
