"""Pages: their code runs, and prints what they say."""

import doctest
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image

import brainlib
from brainlib import CLASS_NAMES, paths
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
    [("README.md", 0), ("docs/model_card.md", 0), ("docs/service.md", 1)],
)
def test_code_of_a_page_runs(page, index, folder, capsys):
    code = blocks(page, "python")[index]
    exec(compile(code, page, "exec"), {"__name__": "page"})
    printed = capsys.readouterr().out
    assert "print" not in code or re.search(r"meningioma|\b0?\.9\d|9\.\d+e-01", printed)


def test_the_service_answers_each_study_and_says_what_it_cannot_read(folder):
    page = {"__name__": "page"}
    exec(compile(blocks("docs/service.md", "python")[0], "docs/service.md", "exec"), page)
    client = TestClient(page["app"], raise_server_exceptions=False)
    image, archive = (folder / "my_slice.jpg").read_bytes(), io.BytesIO()
    with zipfile.ZipFile(archive, "w") as whole:
        whole.writestr("a/1.jpg", image)
        whole.writestr("b/2.jpg", image)
        whole.writestr("b/cut.png", b"\x89PNG cut short")

    def post(name, content):
        reply = client.post("/classify", files={"file": (name, content)})
        assert tempfile.gettempdir() not in reply.text
        return reply.status_code, reply.json()

    for name in ("my_slice.jpg", "..", "../../x.jpg", "a\0b", "ä" * 300):
        status, [answer] = post(name, image)
        assert status == 200 and answer["class"] == "meningioma"
    status, answers = post("studies.zip", archive.getvalue())
    assert status == 200 and [each["class"] for each in answers] == ["meningioma"] * 2 + [None]
    assert answers[2]["decision"].startswith("unreadable: ")
    schema = client.get("/openapi.json").json()["components"]["schemas"]["Answer"]
    assert list(schema["properties"]) == list(answer)
    assert schema["properties"]["set"]["items"]["enum"] == list(CLASS_NAMES)
    assert client.post("/classify").status_code == 422
    reply = client.post("/classify", files=[("file", ("a.jpg", image))] * 2)
    assert reply.status_code == 422 and reply.json()["detail"].startswith("one file a request")
    form = {"content-type": "multipart/form-data; boundary=b"}
    for status, more in ((400, {}), (413, {"content-length": "250000001"})):
        reply = client.post("/classify", content=b"--bad", headers=form | more)
        assert reply.status_code == status
    sha256 = paths.file_hash(ROOT / "model" / "lesion_net.onnx")
    health = {"version": brainlib.__version__, "model_sha256": sha256}
    assert client.get("/health").json() == health and answer["model"] == "lesion_net"
    bad = {"empty.png": b"", "cut.dcm": b"DICM", "notes": b"\0 text", "x.zip": b"PK"}
    for name, content in bad.items():
        status, reply = post(name, content)
        assert status == 422 and reply["detail"].startswith("unreadable: "), name
