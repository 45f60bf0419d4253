"""The app: what is uploaded, what is answered, and the page itself in a real browser."""

import base64
import http.client
import http.cookiejar
import importlib.util
import io
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import ipywidgets
import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_scans import dicom_bytes, image_bytes

import brainlib
from brainlib import explain, imaging, inference
from brainlib.models import engines
from brainlib.paths import BrainlibError
from brainlib.report import app, words
from brainlib.report.answers import Model
from brainlib.report.app import uploads, view

TOKEN = "of-the-test"
PATIENT = "Doe^Jane"


def brightness(pixels):
    """Stand in for a network: the brighter an image, the surer it is of a glioma."""
    bright = pixels.mean(axis=(1, 2, 3)) / 255
    rest = (1 - bright) / 3
    return np.stack([bright, rest, rest, rest], axis=1).astype(np.float32)


def stand_in(predict=brightness, maps=(), **parts):
    def run(pixels):
        blank = dict.fromkeys(engines.MAPS, np.zeros((len(pixels), 112, 112), np.float32))
        square = np.ones((len(pixels), 3), np.float32)
        return {**blank, "probabilities": predict(pixels), "field_of_view": square}

    engine = engines.Engine(run, ("probabilities", *maps))
    return Model(inference.Classifier(engine, Path("model.keras"), "onnx", **parts))


def upload(name, content):
    return {"name": name, "content": memoryview(content), "type": "", "size": len(content),
            "last_modified": datetime.now(UTC)}  # fmt: skip


def png(grey, size=(40, 30)):
    return image_bytes(Image.new("L", size, grey), "PNG")


def archive(files):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return stream.getvalue()


def dicom_series(slices, name=0, **tags):
    return {f"IM{name + number:04d}.dcm": dicom_bytes(
        np.ascontiguousarray(pixels), **{
            "PatientName": PATIENT, "SeriesDescription": f"{PATIENT} T1",
            "SeriesInstanceUID": "1.2.3.4", "InstanceNumber": number + 1, "PixelSpacing": [1, 1],
            "ImagePositionPatient": [0, 0, 5 * number], "SliceThickness": 5,
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "FrameOfReferenceUID": "1.2.3.5", **tags,
        },
    ) for number, pixels in enumerate(slices)}  # fmt: skip


def widgets_of(box, kind):
    inside = [part for child in getattr(box, "children", ()) for part in widgets_of(child, kind)]
    return [box, *inside] if isinstance(box, kind) else inside


def all_text(box):
    return " ".join(f"{getattr(widget, 'value', '')} {getattr(widget, 'options', '')}"
                    for widget in widgets_of(box, ipywidgets.Widget))  # fmt: skip


def give(page, *files):
    page.upload.value = files
    return all_text(page.box)


def write_files(folder, files):
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def uploaded_series(greys, size=(30, 30)):
    slices = (np.full(size, grey, np.uint8) for grey in greys)
    return [upload(*file) for file in dicom_series(slices).items()]


def studied(greys, size=(30, 30)):
    answers, _ = uploads.read_uploads(stand_in(), uploaded_series(greys, size))
    return view.StudyView(*answers, answers)


def shown(study):
    return np.asarray(Image.open(io.BytesIO(study.image.value)))


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_the_name_of_an_upload_is_never_a_path(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    names = {"../../evil.png": "unnamed/evil.png", "/etc/evil.png": "etc/evil.png",
             "a\nb.png": "a b.png", "C:\\x.png": "C/x.png", "..": "2 unnamed", "a": "a",
             "a/x.png": "x.png", "\x1b[31m.png": "[31m.png"}  # fmt: skip
    saved = uploads.save_uploads([upload(name, png(9)) for name in names], inside)
    assert saved == list(names.values()) and list(tmp_path.iterdir()) == [inside]
    files = {file.relative_to(inside).as_posix() for file in inside.rglob("*") if file.is_file()}
    assert files == set(saved)


def test_each_bad_file_is_one_sentence_or_one_answer_and_the_rest_is_classified(temporary):
    packed = archive({"a.png": png(1)})
    bad = {"cut <i>.jpg": png(5)[:40], "notes.txt": b"hello", "volume.nii": b"\x00" * 500,
           "cut.zip": packed[:-40], "empty.zip": archive({}),
           "secret.zip": packed.replace(b"\x14\0\0\0", b"\x14\0\1\0")}  # fmt: skip
    files = [upload(name, content) for name, content in bad.items()]
    files += [upload("slice.png", png(250)), upload("slice.png", png(20))]
    answers, problems = uploads.read_uploads(stand_in(), files)
    names = [name for name in bad if name != "notes.txt"]
    assert [answer.name for answer in answers] == [*names, "slice.png", "2 slice.png"]
    for answer, name in zip(answers, names, strict=False):
        # the path is a column of its own
        assert re.match(rf"unreadable: (?!.*{re.escape(name)})", answer.decision)
    assert "it is encrypted" in answers[4].decision
    assert answers[5].probabilities["glioma"] > answers[6].probabilities["glioma"]
    assert len(problems) == 1 and problems[0].startswith("notes.txt: ")
    page = view.Page(stand_in())
    text = give(page, *files)
    assert str(temporary) not in text and "Traceback" not in text
    assert "<i>" not in "".join(part.value for part in widgets_of(page.box, ipywidgets.HTML))
    assert "cut &lt;i&gt;.jpg" in text
    series = uploaded_series((9, 240, 99))
    series[1]["content"] = series[1]["content"][:-99]
    page = view.Page(stand_in(lambda pixels: brightness(pixels)[:, [1, 2, 0, 3]]))
    text = give(page, *series)
    assert "<p>1 slice inside the brain was not classified.</p>" in text
    assert "IM0001.dcm: its pixels are cut short" in text


def test_an_upload_leaves_no_file_behind_and_is_refused_before_it_is_cut(temporary, monkeypatch):
    uploads.read_uploads(
        stand_in(), [upload("a.png", png(9)), upload("z.zip", archive({"b": b"x"}))]
    )
    with pytest.raises(BrainlibError, match=r"notes\.txt"):
        uploads.read_uploads(stand_in(), [upload("notes.txt", b"hello")])
    monkeypatch.setattr(uploads, "MOST_SLICES", 2)
    with pytest.raises(BrainlibError, match="more than 2 slices"):
        uploads.read_uploads(stand_in(), [upload(f"{n}.png", png(9)) for n in range(3)])
    assert list(temporary.iterdir()) == []


def test_what_was_just_dropped_is_what_is_shown(temporary):
    page = view.Page(stand_in())
    for names in (["b.png"], ["z.png", "a.png"], ["notes.txt"], ["b.png"], ["b.png"]):
        content = png(240) if names[0].endswith("png") else b"x"
        text = give(page, *(upload(name, content) for name in names))
        seen = [name for name in ("a.png", "b.png", "z.png", "notes.txt") if name in text]
        assert seen == sorted(names), "old answers and notices go"
        assert bool(page.answer.children) == names[0].endswith("png")
        for shown_first in page.answer.children[-1:]:
            assert f'<p class="brainlib-name">{names[0]}</p>' in all_text(shown_first)
        assert not page.upload.value and not page.upload.disabled


def test_what_nobody_foresaw_is_a_sentence_too_and_the_page_goes_on(temporary, caplog):
    def fail(pixels):
        raise ZeroDivisionError("secret detail")

    page = view.Page(stand_in(fail))
    text = give(page, upload("a.png", png(9)))
    assert "Unexpected error" in text and "secret detail" not in text
    assert not page.upload.disabled and "ZeroDivisionError" in caplog.text
    page = app.open_page(temporary / "absent.keras")
    assert "absent.keras" in all_text(page) and not hasattr(page.children[0], "upload")


def test_a_series_is_named_as_in_the_shell_and_without_a_patient(temporary):
    text = give(view.Page(stand_in()), *uploaded_series((9, 99, 199)))
    linked = [base64.b64decode(link).decode() for link in re.findall(r"base64,([^\"]+)", text)]
    text = " ".join([text, *linked])
    assert "7-T1-" in text and "IM0002.dcm" in text  # number, sequence and a hash name a series
    assert "Doe" not in text and "ID-4711" not in text
    series = dicom_series(np.moveaxis(VOXELS, 2, 0))
    in_shell = stand_in()(write_files(temporary / "t1_axial", series)).to_dict()["series"]
    dropped = [upload(f"t1_axial\\{name}", content) for name, content in series.items()]
    ((in_app,), _) = uploads.read_uploads(stand_in(), dropped)
    assert in_app.name == in_shell and in_shell.startswith("t1_axial 7-T1-")


def test_the_slider_opens_at_the_slice_that_decided_and_shows_each(temporary):
    study = studied((9, 99, 240, 30))
    assert study.numbers[study.slider.value] == study.answer.deciding[0] == 3
    assert "Slice 3 of 4, axial" in " ".join(study.line.value.split())
    for place in range(4):
        study.slider.value = place
        grey = study.answer.images[place + 1].pixels[0, 0]
        assert shown(study)[200, 200] == pytest.approx(grey, abs=1)
    study.window.value = (30, 60)
    assert shown(study)[200, 200] == pytest.approx((grey - 30) * 255 / 30, abs=1)


def test_other_planes_and_a_part_of_a_slice_can_be_looked_at(temporary):
    study = studied((9, 99, 240, 30), size=(40, 24))
    study.planes.value = "sagittal"
    assert "Sagittal 13 of 24, reformatted from the axial slices" in study.line.value
    assert study.answer.images[1].affine[1, 0] < 0  # rows lead to the back
    # five millimetres a slice, the head on top
    rows = shown(study)[[35, 105, 175, 245], 200].astype(int)
    assert rows == pytest.approx([30, 240, 99, 9], abs=40) and shown(study).shape == (280, 560)
    if importlib.util.find_spec("ipyniivue"):
        study.planes.value = view.TOGETHER
        [together] = widgets_of(study.viewer, ipywidgets.DOMWidget)[-1:]
        scan = nibabel.Nifti1Image.from_bytes(together.volumes[0].data)
        assert together.opts.sagittal_nose_left  # as in the slices of the slider
        assert scan.shape == (40, 24, 4) and np.allclose(scan.affine, study.volume.affine)
    study.planes.value, study.zoom.value, study.across.value = "axial", 4, 0
    study.answer.images[3].pixels[:, 12:] = 0
    study.slider.value = 2
    assert shown(study)[50, 300] == pytest.approx(240, abs=2)
    study.across.value = 1
    assert shown(study)[50, 300] == pytest.approx(0, abs=2)


def bright(drawer, images):
    """Draw maps that call the brightest pixels a tumour."""
    return (explain.Maps(None, (image > 200).astype(np.float32), image / np.float32(255))
            for image in images)  # fmt: skip


@pytest.fixture
def reported(tmp_path, monkeypatch):
    """Return a function that classifies files one by one and writes their reports."""
    monkeypatch.setattr(explain, "draw_maps", bright)

    def write(*files):
        model = stand_in(lambda pixels: brightness(255 - pixels), engines.MAPS)
        scans = inference.name_scans(scan for file in files for scan in imaging.list_scans(file))
        tables = [inference.classify(model.classifier, inference.read_slices(scan))
                  for scan in scans]  # fmt: skip
        studies = pd.concat([inference.summarise(model.classifier, one) for one in tables])
        brainlib.report.write_reports(
            model.classifier, scans, pd.concat(tables), studies, tmp_path / "reports", "acquired", 9
        )
        return sorted((tmp_path / "reports").iterdir())

    return write


VOXELS = np.random.default_rng(0).integers(0, 100, (24, 30, 8)).astype(np.uint8)
VOXELS[5:9, 10:14, 2:5] = 250  # rows, columns, slices


@pytest.mark.parametrize("axes", ["LPS", "SRA", "AIL"])
def test_the_outline_is_saved_in_the_grid_of_the_scan(reported, tmp_path, axes):
    image = nibabel.Nifti1Image(VOXELS, np.diag([1, 2, 3, 1]))
    image = image.as_reoriented(nibabel.orientations.axcodes2ornt(axes))
    nibabel.save(image, tmp_path / "scan.nii.gz")
    files = reported(tmp_path / "scan.nii.gz")
    assert [file.name for file in files] == ["index.html", "scan.html", "scan.outline.nii.gz"]
    text = files[1].read_text(encoding="utf-8")
    assert "<b>Unjudged.</b>" in text and files[2].name in text
    mask = nibabel.load(files[2])
    assert np.allclose(mask.affine, image.affine)
    wrong = np.asarray(mask.dataobj) != (np.asarray(image.dataobj) == 250)
    assert wrong.mean() < 0.01  # at its border, where pixels were made square


def test_the_outline_of_a_series_is_a_dicom_segmentation_without_a_name(reported, tmp_path):
    highdicom = pytest.importorskip("highdicom")
    series = dicom_series(np.moveaxis(VOXELS, 2, 0))
    scan = write_files(tmp_path / PATIENT / "axial", series)
    files = {file.name.partition(".")[2]: file for file in reported(scan)}
    assert files["outline.dcm"].name.startswith("axial-7-T1-")
    volume = highdicom.seg.segread(files["outline.dcm"]).get_volume()
    places = np.argwhere(volume.array[..., 0]) @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    assert len(places) == 48  # x to the left, y to the back, z to the head, mm
    assert places.min(axis=0) == pytest.approx([10, 5, 10])
    assert places.max(axis=0) == pytest.approx([13, 8, 20])
    for file in files.values():
        assert not [word for word in (b"Doe", b"ID-4711", b"19620730") if word in file.read_bytes()]


@pytest.mark.parametrize("heights", [[0, 1, 2, 3, 4, 7, 8, 9], [0, 1, 2, 3, 4, 5.5, 6.5, 7.5]])
def test_a_series_with_a_gap_has_no_outline_file_and_no_other_planes(
    reported, tmp_path, caplog, heights
):
    series = {}
    for number, pixels in enumerate(np.moveaxis(VOXELS, 2, 0)):
        place = {"ImagePositionPatient": [0, 0, 5 * heights[number]], "InstanceNumber": number + 1}
        series |= dicom_series([pixels], name=number, **place)
    report, _ = reported(write_files(tmp_path / "gap", series))
    reason = "because its slices form no regular volume"
    text = report.read_text(encoding="utf-8")
    assert f"No outline file is saved, {reason}" in text and reason in caplog.text
    assert "Could not be read" not in text and ("6 to 7 (2)" in text) == (heights[5] == 7)
    files = reported(tmp_path / "gap" / "IM0003.dcm")  # a single slice is a volume
    assert [name for name in files if name.match("*.outline.nii.gz")]
    page = view.Page(stand_in())
    text = give(page, *(upload(*file) for file in series.items()))
    assert f"No other planes and no outline file, {reason}" in text and "sagittal" not in text


def test_studies_of_one_name_have_a_report_each(reported, tmp_path):
    for folder, count in (("a", 8), ("b", 5)):
        (tmp_path / "n" / folder).mkdir(parents=True)
        image = nibabel.Nifti1Image(VOXELS[:, :, :count], np.diag([1, 1, 5, 1]))
        nibabel.save(image, tmp_path / "n" / folder / "x.nii")
    series = dicom_series(np.moveaxis(VOXELS, 2, 0))
    series["copy.dcm"] = series["IM0007.dcm"]  # which is no slice of its study
    write_files(tmp_path / "s", series)
    told = stand_in()(tmp_path / "s").to_dict()
    assert (told["slices"], told["refused"]) == (8, 0)
    assert told["remarks"] == ["copy.dcm: it is a second copy of another file of its series"]
    one, other = (tmp_path / "n" / folder / "x.nii" for folder in "ab")
    files = reported(tmp_path / "s", tmp_path / "n", one, other)
    texts = {file.name: file.read_text("utf-8") for file in files if file.suffix == ".html"}
    [report] = (text for name, text in texts.items() if name.startswith("s-7-"))
    assert "<h2>Left out</h2>" in report and "<td>copy.dcm</td>" in report
    assert "<h2>Refused</h2>" not in report
    named = {"a-x.html": "8", "b-x.html": "5", "a-x-2.html": "8", "b-x-2.html": "5"}
    assert {name for name in texts if name[0] != "s"} == {"index.html", *named}
    assert texts["index.html"].count("<a href=") == 5
    assert '<a href="b-x.html">b/x.nii</a>' in texts["index.html"]
    assert " b/x.nii " in texts["b-x.html"].partition("</title>")[0]
    for name, count in named.items():
        assert set(re.findall("Slice [0-9]+ of ([0-9]+)", texts[name])) == {count}


def test_the_page_opens_without_tensorflow():
    program = (
        "import sys; from brainlib.report import app; app.open_page()\n"
        "assert not {'tensorflow', 'keras', 'matplotlib', 'seaborn'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Give the address of a served page, and its temporary folder."""
    pytest.importorskip("voila")
    folder = tmp_path_factory.mktemp("served")
    program = (
        "import logging, sys, tempfile\nfrom brainlib.report.app import server\n"
        "logging.basicConfig(format='%(message)s', level=logging.INFO)\n"
        "tempfile.tempdir = sys.argv[1]\n"
        "server.serve(port=0, open_browser=False, token=sys.argv[2])\n"
    )
    command = [sys.executable, "-c", program, str(folder), TOKEN]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        line = next(line for line in process.stderr if "http://" in line)
        yield re.search(r"http://\S+", line)[0], folder
    finally:
        process.terminate()
        process.wait(30)
        assert "websocket_ping" not in process.stderr.read()
        process.stderr.close()
    assert list(folder.iterdir()) == []  # it takes its temporary files along


@pytest.fixture
def browser(tmp_path):
    driver = shutil.which("chromedriver")
    if not (shutil.which("chromium") and driver):
        pytest.skip("needs chromium and chromedriver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu"):
        options.add_argument(f"--{argument}")
    saved = {"download.default_directory": str(tmp_path / "saved")}
    options.add_experimental_option("prefs", saved)
    opened = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield opened
    opened.quit()


def test_the_page_is_for_this_machine_and_for_who_has_the_token(served):
    url, host = served[0], served[0].split("/")[2]
    assert host.startswith("127.0.0.1:")
    with urllib.request.urlopen(f"http://{host}") as answer:
        assert "/login" in answer.url and b"brainlib" not in answer.read()
    for path in ("brainlib.ipynb", "voila/files/brainlib.ipynb"):
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"http://{host}/{path}?token={TOKEN}")
    jar = http.cookiejar.CookieJar()
    visit = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar)).open
    with visit(url) as answer:
        kernel = re.search(r'"kernelId": "([^"]+)"', answer.read().decode())[1]
    # a foreign page cannot talk to the kernel even with the token
    for origin, status in ((f"http://{host}", 101), ("http://evil.example", 403)):
        with closing(http.client.HTTPConnection(host)) as connection:
            connection.request("GET", f"/api/kernels/{kernel}/channels?token={TOKEN}", headers={
                "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
                "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(), "Origin": origin,
            })  # fmt: skip
            with connection.getresponse() as answer:
                assert answer.status == status
    end = f"http://{host}/voila/api/shutdown/{kernel}"
    with pytest.raises(urllib.error.HTTPError, match="403"):
        visit(end, b"")  # all that a foreign page could send
    [cookie] = (cookie.value for cookie in jar if cookie.name == "_xsrf")
    with visit(end, f"_xsrf={cookie}".encode()) as answer:  # as the page does when it is closed
        assert answer.status == 204


def test_a_visitor_uploads_scans_and_reads_the_answers(served, browser, tmp_path):
    url, temporary = served
    series = dicom_series(np.moveaxis(VOXELS, 2, 0))
    archived = {"series.zip": archive(series)}
    browser.get(url)
    wait(browser, ".brainlib-drop button")
    assert "not a medical device" in browser.find_element("tag name", "body").text
    assert not browser.find_elements("css selector", "pre, table")  # no other cell of the notebook
    drop(browser, series)
    wait(browser, ".brainlib-ribbon span:nth-child(8):last-child")
    color = browser.execute_script(
        "const note = document.createElement('span'); note.className = 'brainlib-quiet';"
        "document.querySelector('.brainlib-viewer').append(note);"
        "const color = getComputedStyle(note).color; note.remove(); return color;"
    )
    assert min(map(int, re.findall(r"\d+", color)[:3])) > 150  # to be read on black
    shown = browser.find_element("css selector", ".brainlib-image").get_attribute
    before = shown("src")
    browser.find_element("css selector", ".noUi-handle").send_keys("\ue012")  # arrow to the left
    wait_for(browser, lambda: shown("src") != before)
    files = write_files(tmp_path / "own", {"slice.png": png(99), "z.png": png(9), "LICENSE": b"x"})
    wait(browser, ".brainlib-drop button:not([disabled])")
    browser.execute_script(
        "const guarded = HTMLInputElement.prototype.click;"
        "HTMLInputElement.prototype.click = function () {"
        "  document.body.append(this); this.style.display = '';"
        "  HTMLInputElement.prototype.click = guarded; guarded.call(this); };"
        "document.querySelector('.brainlib-drop button').click();"
    )
    chosen = wait(browser, "body > input[type=file]")
    for names in (["z.png", "LICENSE"], ["slice.png"]):  # a driver adds to the files of an input
        chosen.send_keys("\n".join(str(files / name) for name in names))
        wait_for(browser, lambda: wait(browser, ".brainlib-name").text == names[0])  # noqa: B023
    assert not browser.find_elements("css selector", ".brainlib-problems, .brainlib-chooser")
    title = words.headline(brainlib.load()(files / "slice.png"))["title"]
    assert browser.find_element("css selector", ".brainlib-study h2").text.startswith(title)
    drop(browser, archived)
    wait(browser, ".brainlib-ribbon span:nth-child(8):last-child")
    wait(browser, ".brainlib-links a[download='predictions.csv']").click()
    saved = tmp_path / "saved" / "predictions.csv"
    # the browser makes the file first and fills it later
    wait_for(browser, lambda: saved.is_file() and saved.stat().st_size)
    table = saved.read_text(encoding="utf-8").splitlines()
    assert len(table) == 9 and table[0].split(",") == list(inference.COLUMNS)
    limit = "document.querySelector('[data-megabytes]').dataset.megabytes"
    browser.execute_script(f"{limit} = '0.0001'")
    drop(browser, archived)
    assert "choose fewer" in wait(browser, ".brainlib-toolarge").text
    assert not list(temporary.rglob("brainlib-scans-*"))


def drop(browser, files):
    wait(browser, ".brainlib-drop button:not([disabled])")
    browser.execute_script(
        "const moved = new DataTransfer();"
        "for (const [name, bytes] of arguments[0])"
        "  moved.items.add(new File([Uint8Array.from(bytes)], name));"
        "document.querySelector('.brainlib-drop').dispatchEvent("
        "  new DragEvent('drop', {dataTransfer: moved, bubbles: true, cancelable: true}));",
        [(name, list(content)) for name, content in files.items()],
    )


def wait(browser, selector):
    wait_for(browser, lambda: browser.find_elements("css selector", selector))
    return browser.find_element("css selector", selector)


def wait_for(browser, is_true):
    from selenium.common.exceptions import StaleElementReferenceException as Stale
    from selenium.webdriver.support.wait import WebDriverWait

    waiting = WebDriverWait(browser, 90, 0.05, [Stale])
    waiting.until(lambda _: is_true(), browser.find_element("tag name", "body").text)
