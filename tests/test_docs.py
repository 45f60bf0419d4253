"""Pages: their code runs, and prints what they say."""

import doctest
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from brainlib import paths
from brainlib.data import phantom

ROOT = paths.project_root()
SAME = doctest.ELLIPSIS
"""How output is compared: `...` stands for what depends on the machine."""


def blocks(page, language):
    """Return the code blocks of a page in one language."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Stand in a folder that looks like the project, with a scan."""
    for name in ("docs", "model"):
        (tmp_path / name).symlink_to(ROOT / name)
    [head] = phantom.simulate_patient("meningioma", seed=1, slices=1)
    Image.fromarray(head.pixels).save(tmp_path / "my_slice.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_first_minutes_are_as_they_are_shown(folder):
    page = "docs/first_minutes.md"
    calls = "\n".join(blocks(page, "pycon"))
    example = doctest.DocTestParser().get_doctest(calls, {}, page, page, 0)
    assert doctest.DocTestRunner(optionflags=SAME).run(example).failed == 0
    [shell] = blocks(page, "console")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", shell, re.M):
        done = subprocess.run(
            shlex.split(command.replace(".venv/bin/", "")),
            env={**os.environ, "PATH": path}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        same = doctest.OutputChecker().check_output(expected, done.stdout, SAME)
        assert same, f"{command} printed\n{done.stdout}"


@pytest.mark.parametrize(
    ("page", "index"),
    [("README.md", 0), ("docs/model_card.md", 0), ("docs/service.md", 1), ("docs/service.md", 0)],
)
def test_code_of_a_page_runs(page, index, folder, capsys):
    code = blocks(page, "python")[index]
    if "fastapi" in code:
        pytest.importorskip("fastapi")
    exec(compile(code, page, "exec"), {"__name__": "page"})
    printed = capsys.readouterr().out
    assert "print" not in code or re.search(r"meningioma|\b0?\.9\d|9\.\d+e-01", printed)
