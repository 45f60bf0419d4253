"""The commands say in one line what a user can mend, and a source is one entry of a registry."""

import subprocess
import sys

import papermill
import pytest

from brainlib import cli
from brainlib.data import SOURCES, datasets, open_collection
from brainlib.notebook import pipeline
from brainlib.paths import BrainlibError, project_root


def test_a_command_says_in_one_line_what_a_user_can_mend():
    command = [sys.executable, "-m", "brainlib", "classify", "no/such/scan"]
    done = subprocess.run(command, cwd=project_root(), capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout
    assert "no/such/scan" in done.stderr and done.stderr.count("\n") == 1


def test_a_missing_source_is_one_line(monkeypatch, capsys, tmp_path):
    def execute(*_):
        raise papermill.PapermillExecutionError(3, 7, "x", "BrainlibError", "no folder", ["..."])

    monkeypatch.setattr(pipeline, "execute", execute)
    monkeypatch.setattr(
        sys, "argv", ["brainlib", "run", "--source", "no/such", "--output", str(tmp_path)]
    )
    assert cli.main() == 2
    told = capsys.readouterr().err
    assert "raised BrainlibError: no folder" in told and told.count("\n") == 1


def test_a_folder_that_is_absent_names_the_sources():
    with pytest.raises(BrainlibError, match="'kaggle', 'figshare', 'phantom'"):
        open_collection("no/such/folder")


def test_a_source_is_added_by_one_entry(monkeypatch, tmp_path):
    monkeypatch.setitem(SOURCES, "mine", lambda seed: datasets.open_folder(tmp_path / str(seed)))
    with pytest.raises(BrainlibError, match="7 is not a folder"):
        open_collection("mine", seed=7)
