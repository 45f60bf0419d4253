"""The commands: a line a person reads, tables that programs read, and an honest exit status."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import papermill
import pytest
from PIL import Image
from test_scans import dicom_bytes

from brainlib import __version__, cli, imaging, inference
from brainlib.notebook import pipeline
from brainlib.report import html


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Run a command as if in an own folder; give status, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["brainlib", *map(str, arguments)])
        status = cli.main()
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def scans(tmp_path):
    """Draw two images that the released gate refuses, one of them named to do harm."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for name in ("blank.png", "=a\x1b[31m.png"):
        Image.fromarray(np.zeros((90, 90), np.uint8)).save(folder / name)
    return folder


def test_one_line_a_scan_for_people_and_relative_paths_are_the_users(call, scans):
    status, out, _ = call("classify", "scans")
    assert status == 0
    assert out.splitlines() == [
        r"=a\x1b[31m.png: refused: it is blank", "blank.png: refused: it is blank",
    ]  # fmt: skip
    (scans / "blank.png").rename("~$a.png")  # as programs name what they have open
    assert call("classify", "~$a.png")[:2] == (0, "~$a.png: refused: it is blank\n")
    same = call("classify", "--csv", "~$a.png", "./~$a.png", "scans/../~$a.png")[1].splitlines()
    assert len(same) == 2 and ".." not in same[1]
    assert call("classify", "")[0] == cli.MISTAKE  # and not the project's own images
    assert call("--version")[:2] == (0, f"brainlib {__version__}\n")


def test_scans_that_change_meanwhile_do_not_end_with_0(call, scans, monkeypatch):
    read = imaging.read_scan
    change = lambda scan, *rest: scan.file.write_bytes(b"other") and read(scan, *rest)  # noqa: E731
    monkeypatch.setattr(imaging, "read_scan", change)
    status, _, err = call("classify", "scans")
    assert status == 2 and err == "scans changed while they were classified: run it again\n"


def test_json_and_csv_are_for_programs_and_a_terminal_is_not_coloured(call, scans, monkeypatch):
    _, out, _ = call("classify", "--json", "scans/blank.png")
    answer = json.loads(out)
    assert answer["class"] is None and answer["decision"] == "refused: it is blank"
    content = dicom_bytes(np.zeros((90, 90), np.int16), SeriesDescription="Ax T1")
    (scans.parent / "t1.dcm").write_bytes(content)
    said = [call("classify", "--json", "t1.dcm", *to)[1] for to in ((), ("--output", "out"))]
    assert said[0] == said[1] and json.loads(said[0])["facts"] == {"description": "Ax T1"}
    shutil.copytree(scans, scans.parent / "others")
    files = ("scans/blank.png", "others/blank.png")  # which the names tell apart everywhere
    for options, mark in (((), ":"), (("--csv",), ",")):
        lines = call("classify", *files, *options)[1].splitlines()[-2:]
        assert [line.split(mark)[0] for line in lines] == [*files]
    _, out, _ = call("classify", "--csv", "scans")
    header, *rows = out.splitlines()
    assert header.split(",") == list(inference.STUDY_COLUMNS) and len(rows) == 2
    assert rows[0].startswith("'=a\x1b[31m.png,")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert r"'=a\x1b[31m.png," in call("classify", "--csv", "scans")[1]


def test_tables_and_reports_go_where_the_user_says(call, scans, tmp_path, monkeypatch):
    status, out, _ = call("classify", "scans", "--output", "out", "--reports")
    assert status == 0 and len(out.splitlines()) == 3
    assert out.endswith("out/predictions.csv, out/studies.csv; reports: out/reports\n")
    assert len(pd.read_csv(tmp_path / "out" / "studies.csv")) == 2
    reports = tmp_path / "out" / "reports"
    names = ["a-x1b-31m.html", "blank.html", "index.html"]
    assert sorted(file.name for file in reports.iterdir()) == names
    (reports / "mine.html").touch()
    call("classify", "scans", "--output", "out")  # the same scans
    assert (reports / "index.html").exists()
    call("classify", "scans/blank.png", "--output", "out", "--reports")
    assert sorted(file.name for file in reports.iterdir()) == [*names[1:], "mine.html"]
    write = html.write_report
    stop_late = lambda path, *rest: write(path, *rest) if path.stem == names[0][:-5] else 1 / 0  # noqa: E731
    monkeypatch.setattr(html, "write_report", stop_late)
    with pytest.raises(ZeroDivisionError):
        call("classify", "scans", "--output", "out", "--reports")
    assert (reports / names[0]).exists()  # and the other is not: the run was stopped in between
    call("classify", "scans/blank.png", "--output", "out")
    assert [file.name for file in reports.iterdir()] == ["mine.html"]
    change = lambda path, *rest: write(path, *rest) and (scans / "blank.png").write_bytes(b"other")  # noqa: E731
    monkeypatch.setattr(html, "write_report", change)
    status, _, err = call("classify", "scans", "--output", "out", "--reports")
    assert status == 2 and "changed while" in err
    assert [file.name for file in reports.iterdir()] == ["mine.html"]


@pytest.mark.parametrize("output", [(), ("--output", "out")])
def test_an_unreadable_scan_ends_with_3_and_the_others_are_answered(call, scans, output):
    (scans / "cut.png").write_bytes(b"\x89PNG cut short")
    (scans.parent / "empty").mkdir()
    shutil.make_archive(scans.parent / "packed", "zip", scans.parent / "empty")
    (scans.parent / "notes.txt").touch()
    names = ("scans", "empty", "packed.zip", "notes.txt")
    status, out, _ = call("classify", *names, *output)
    assert status == 3 and len(out.splitlines()) == 6 + bool(output)
    assert "cut.png: unreadable: " in out and "blank.png: refused" in out
    (scans.parent / "series").mkdir()
    for number in (1, 2):
        place = {"InstanceNumber": number, "ImagePositionPatient": [0, 0, 5 * number]}
        content = dicom_bytes(np.zeros((90, 90), np.int16), **place)
        end = len(content) - 9 * (number - 1)
        (scans.parent / "series" / f"{number}.dcm").write_bytes(content[:end])
    status, _, err = call("classify", "series", *output)
    assert status == 3 and "2.dcm: its pixels are cut short" in err
    for name in names[1:]:  # nothing in it is a scan
        status, out, _ = call("classify", name, *output)
        assert status == 3 and out.startswith(f"{name}: unreadable: it ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["classify", "no/such/scan"], "no/such/scan"),
        (["classify", "scans", "--engine", "abacus"], "abacus"),
        (["classify", "scans", "--model", "mine.keras"], "mine.keras: check the name"),
        (["classify", "scans", "--model", "m.pt"], "m.pt is no model"),
        (["classify", "scans", "--model", ""], "is no model"),
        (["app", "--model", "absent.keras", "--no-browser"], "absent.keras: check the name"),
        (["app", "--model", "m.keras", "--no-browser"], "is empty or damaged"),
        (["classify", "scans", "--output", "/proc/x"], "): name another folder"),
        (["classify", "scans", "--model", "m.keras", "--engine", "keras"], "is empty or damaged"),
        (["classify", "scans", "--plane", "tilted"], "tilted"),
        (["classify", "scans", "--reports"], "--reports needs a folder"),
        (["classify", "scans", "--output", "m.keras"], "m.keras is a file, not a folder"),
        (["classify", "scans", "--scheduler", "x:1"], "--scheduler needs a folder"),
        (["classify", "scans", "--model", "scans/blank.png"], "blank.png is no model"),
        (["classify", "scans", "--json", "--csv"], "--json and --csv"),
        (["app", "--port", "99999"], "from 0 to 65535"),
    ],
)
def test_a_mistake_is_one_line_and_ends_with_2(call, scans, arguments, said):
    (scans.parent / "m.keras").touch()
    status, out, err = call(*arguments)
    assert status == 2 and not out and said in err and err.count("\n") == 1


@pytest.mark.parametrize("output", [(), ("--output", "out")])
def test_ctrl_c_is_one_line_and_ends_with_130(call, scans, monkeypatch, output):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(imaging, "read_scan", interrupted)
    monkeypatch.setattr(pipeline, "execute", interrupted)
    commands = {("classify", "scans", *output): " (with --output)", ("run", "--output", "out"): ""}
    for command, limit in commands.items():
        status, out, err = call(*command)
        stopped = f"stopped: enter the same command again to continue{limit}"
        assert (status, out, err.splitlines()[-1]) == (130, "", stopped)


def test_a_command_that_is_none_is_said_and_help_fits_a_screen(call, tmp_path):
    status, _, err = call("clasify")
    assert status == 2 and "No such command" in err and "classify" in err
    status, _, err = call("run", "--epochs", "-1")
    assert status == 2 and "'--epochs'" in err
    for command in ([], ["classify"], ["app"], ["run"], ["sweep"]):
        status, out, _ = call(*command, "--help")
        assert status == 0 and 0 < len(out.splitlines()) <= 40
    command = [sys.executable, "-m", "brainlib", "classify", "nothing"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and str(tmp_path / "nothing") in done.stderr


def test_a_missing_source_is_one_line(call, monkeypatch, tmp_path):
    def execute(*_):
        raise papermill.PapermillExecutionError(3, 7, "x", "BrainlibError", "no folder", ["..."])

    monkeypatch.setattr(pipeline, "execute", execute)
    status, _, told = call("run", "--source", "no/such", "--output", tmp_path)
    assert status == 2
    assert told.splitlines()[-1].endswith("raised BrainlibError: no folder")
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("redirection", "status", "said"),
    [(">&-", 0, ""), (">&- 2>&-", 0, ""), ("> /dev/full", 2, "No space left on device: look at")],
)
def test_output_that_goes_nowhere_ends_without_a_traceback(redirection, status, said, tmp_path):
    Image.new("L", (64, 64), 90).save(tmp_path / "a.png")
    program = f'"{sys.executable}" -m brainlib classify "{tmp_path}" --output "{tmp_path}/out"'
    done = subprocess.run(f"{program} {redirection}", shell=True, capture_output=True, text=True)
    assert done.returncode == status
    assert done.stderr.count("\n") == bool(said) and said in done.stderr
    assert len(list((tmp_path / "out").glob("*.csv"))) == 2
