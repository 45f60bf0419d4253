"""Work on a dask cluster of real processes: complete, each item once, whoever is killed."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from unittest.mock import Mock

import pandas as pd
import pytest
from stand_ins import draw

from brainlib import imaging, inference, paths
from brainlib.inference import cluster, folder
from brainlib.models import engines
from brainlib.notebook import pipeline

WORKERS = 3


def start(program, *options):
    command = [sys.executable, "-m", f"distributed.cli.{program}", "--no-dashboard", *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def dask(tmp_path_factory):
    """Start a scheduler and workers as anyone would, and give its address and their processes."""
    place = tmp_path_factory.mktemp("dask")
    contact = ("--scheduler-file", str(place / "scheduler.json"), "--host", "127.0.0.1")
    alone = ("--no-nanny", "--nthreads", "1", "--memory-limit", "0", "--death-timeout", "60",
             "--local-directory", str(place))  # fmt: skip
    processes = [start("dask_scheduler", *contact, "--port", "0")]
    processes += [start("dask_worker", *contact, *alone) for _ in range(WORKERS)]
    from distributed import Client

    while not (place / "scheduler.json").is_file():
        assert processes[0].poll() is None
        time.sleep(0.05)
    with Client(scheduler_file=contact[1], set_as_default=False) as client:
        client.wait_for_workers(WORKERS, timeout=60)
        address = client.scheduler.address
    yield address, processes
    for process in reversed(processes):
        process.kill()
        process.wait()


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(engines, "CHUNK", 8)
    monkeypatch.setattr(cluster, "LEAST_WAITING", 1)


def noted(function, log, seconds):
    """Let a function note in a file when it starts and ends, and in which process."""

    def slowly(*arguments, **named):
        import os
        import time

        def note(event):
            with log.open("a", encoding="utf-8") as stream:
                stream.write(f"{event},{os.getpid()},{arguments[0][0].series}\n")

        note("start")
        time.sleep(seconds)
        result = function(*arguments, **named)
        note("end")
        return result

    return slowly


class Absent:
    """What pickles and cannot be loaded elsewhere."""

    def __reduce__(self):
        return __import__, ("no_such_module",)


def read_log(log):
    return [line.split(",") for line in log.read_text("utf-8").splitlines()]


def at_work(log):
    """Return which processes have started a part and not ended it, and how many parts ended."""
    events = read_log(log) if log.is_file() else []
    started, ended = ([one for event, *one in events if event == kind] for kind in ("start", "end"))
    return [one for one in started if one not in ended], len(ended)


def kill_one_at_work(log, killed):
    """Kill a process in the middle of a part, once three parts are done."""
    while not killed:
        running, done = at_work(log)
        time.sleep(0.15)  # what it did before has arrived by then
        found = [one for one in running if one in at_work(log)[0]]
        if done >= 3 and found:
            os.kill(int(found[-1][0]), signal.SIGKILL)
            killed.append(found[-1])


def test_a_killed_worker_costs_the_part_it_was_at(dask, task, tmp_path, monkeypatch):
    scans = imaging.list_scans(draw(tmp_path / "scans", 150))
    here = inference.classify_scans(scans, tmp_path / "here", task)
    log, killed = tmp_path / "log.csv", []
    monkeypatch.setattr(folder, "classify_part", noted(folder.classify_part, log, 0.4))
    killer = threading.Thread(target=kill_one_at_work, args=(log, killed))
    killer.start()
    there = inference.classify_scans(scans, tmp_path / "there", task, dask[0])
    killer.join()
    for mine, theirs in zip(here, there, strict=True):
        assert mine.read_bytes() == theirs.read_bytes()
    assert len(pd.read_csv(there[0])) == 150
    starts = [(pid, part) for event, pid, part in read_log(log) if event == "start"]
    times = Counter(part for _, part in starts)
    again = {part for part, count in times.items() if count > 1}
    (pid, part), parts = killed[0], -(-150 // 8)
    assert len(times) == parts and len({pid for pid, _ in starts}) == WORKERS
    assert again == {part}, "the part at work is done again, and no other"
    first, second = [other for other, same in starts if same == part]
    assert first == pid and second != pid


def test_other_code_another_model_and_an_absent_scheduler_are_said(
    dask, task, tmp_path, monkeypatch
):
    with pytest.raises(paths.BrainlibError, match="same version of brainlib") as said:
        list(cluster.spread(str, [Absent()], dask[0]))
    assert "no_such_module" in str(said.value)
    scans = imaging.list_scans(draw(tmp_path / "scans", 20))
    monkeypatch.setattr(folder, "model_digest", lambda task: "of the model here")
    with pytest.raises(paths.BrainlibError, match=r"is not the model(.|\n)*copy the files"):
        inference.classify_scans(scans, tmp_path / "out", task, dask[0])
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.5)
    for wrong in ("tcp://127.0.0.1:1", "nowhere"):
        with pytest.raises(paths.BrainlibError, match="dask scheduler"):
            inference.classify_scans(scans, tmp_path / "out", task, wrong)


def test_a_run_that_is_stopped_leaves_nothing_on_the_cluster(dask, task, tmp_path, monkeypatch):
    full = Mock(side_effect=OSError(28, "No space"))
    monkeypatch.setattr(folder, "write_part", full)
    scans = imaging.list_scans(draw(tmp_path / "scans", 100))
    before = threading.active_count()
    with pytest.raises(paths.WriteError, match="No space"):
        inference.classify_scans(scans, tmp_path / "out", task, dask[0])
    with cluster.connect(dask[0]) as client:
        until = time.monotonic() + 20
        while client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)):
            assert time.monotonic() < until
            time.sleep(0.05)
    assert threading.active_count() <= before + 1


def test_a_sweep_is_spread_and_judged_by_validation(dask, tmp_path, monkeypatch, capsys):
    def learn(step, target):
        """Stand in for a training: leave a history, better for a higher rate."""
        import os
        from pathlib import Path

        folder = Path(step.output(target[1])) / "model"
        folder.mkdir(parents=True)
        rate, fold = step.parameters["learning_rate"], step.parameters["fold"]
        if rate > 1:
            raise ValueError("it is too high")
        (folder / f"seed_cnn_patient{fold}.history.csv").write_text(
            "epoch,accuracy,loss,validation_accuracy,validation_loss\n"
            f"1,0.1,9,0.1,9\n2,0.9,0.1,{rate},{1 - rate}\n"
        )
        (folder / "pid").write_text(str(os.getpid()))

    monkeypatch.setattr(pipeline, "_attempt_on_worker", learn)
    values = {"learning_rate": [0.25, 0.5, 2.0], "fold": [0, 1]}
    steps = pipeline.sweep_steps("seed_cnn", values)
    assert len({step.folder for step in steps}) == len({step.name for step in steps}) == 6
    output = str(tmp_path / "out")
    with pytest.raises(paths.BrainlibError, match="2 of 6 steps failed") as said:
        pipeline.run(steps, "phantom", output, seed=0, scheduler=dask[0])
    shown = capsys.readouterr().err
    for fold in (0, 1):
        name = f"02_train-seed_cnn-learning_rate-2.0_fold-{fold}"
        assert f"{name}: it is too high" in str(said.value)
        assert re.search(f"failed=.*{name}", shown), "the bar names it"
    table = pipeline.summarise_sweep(steps, output)
    columns = ["learning_rate", "fold", "validation_accuracy", "validation_log_loss"]
    expected = [[0.25, 0, 0.25, 0.75], [0.25, 1, 0.25, 0.75], [0.5, 0, 0.5, 0.5],
                [0.5, 1, 0.5, 0.5]]  # fmt: skip
    assert table.loc[:3, columns].to_numpy().tolist() == expected
    assert (table.loc[:3, "epochs_trained"] == 2).all()
    assert table.loc[4:, ["epochs_trained", "validation_accuracy"]].isna().all().all()
    processes = {file.read_text() for file in Path(output).rglob("pid")}
    assert processes and str(os.getpid()) not in processes


def test_a_sweep_that_cannot_be_is_refused():
    for reason, values in (
        ("no parameter 'rate'", {"rate": [1]}), ("no parameter 'output'", {"output": ["x"]}),
        ("a value for each", {"fold": []}), ("at least one parameter", {}),
        ("validation images", {"hold_out": [0.0, 0.2]}),
    ):  # fmt: skip
        with pytest.raises(paths.BrainlibError, match=reason):
            pipeline.sweep_steps("seed_cnn", values)


def test_a_scheduler_that_is_gone_is_said_and_the_parts_are_kept(
    dask, task, tmp_path, monkeypatch
):  # the last one: the cluster does not come back
    address, processes = dask
    log = tmp_path / "log.csv"
    monkeypatch.setattr(folder, "classify_part", noted(folder.classify_part, log, 0.2))
    scans = imaging.list_scans(draw(tmp_path / "scans", 200))

    def kill():
        while len(list(tmp_path.glob("out/*.parts/*.studies.csv"))) < 2:
            time.sleep(0.01)
        processes[0].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(paths.BrainlibError, match="no more") as said:
        inference.classify_scans(scans, tmp_path / "out", task, address)
    killer.join()
    assert "what is done is kept" in str(said.value)
    kept = len(list(tmp_path.glob("out/*.parts/*.studies.csv")))
    monkeypatch.undo()
    monkeypatch.setattr(engines, "CHUNK", 8)
    read_scan = Mock(side_effect=imaging.read_scan)
    monkeypatch.setattr(imaging, "read_scan", read_scan)
    tables = inference.classify_scans(scans, tmp_path / "out", task)
    assert kept and read_scan.call_count == 200 - 8 * kept and len(pd.read_csv(tables[0])) == 200
