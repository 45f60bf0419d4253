"""The page: what is uploaded, what is answered, and the page itself in a real browser."""

import base64
import io
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from datetime import datetime, timezone
from pathlib import Path

import nbformat
import nibabel
import numpy as np
import pydicom
import pytest
from nilearn.datasets import load_mni152_template
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from brainlib import CLASS_NAMES, imaging, inference, paths, plots
from brainlib.explain import OUTLINE_THRESHOLD
from brainlib.report import app
from brainlib.report.app import drawing, server, uploads, view, wording

CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
TOKEN = "of-the-test"
PATIENT = "Doe^Jane"


def brightness(pixels):
    """Stand in for a network: the brighter a picture, the surer it is of a glioma."""
    bright = pixels.mean(axis=(1, 2, 3)) / 255
    rest = (1 - bright) / 3
    return np.stack([bright, rest, rest, rest], axis=1).astype(np.float32)


def stand_in(**parts):
    return inference.Classifier(brightness, Path("model.keras"), "onnx", **parts)


def upload(name, content):
    return {"name": name, "content": memoryview(content)}


def png(grey, size=(40, 30)):
    stream = io.BytesIO()
    Image.new("L", size, grey).save(stream, "PNG")
    return stream.getvalue()


def archive(files):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return stream.getvalue()


def dicom_series(slices):
    """Return the files of an axial series, as a scanner would name them, with a patient's name."""
    series, study = generate_uid(), generate_uid()
    files = {}
    for number, pixels in enumerate(slices):
        found = pydicom.Dataset()
        found.SOPClassUID, found.SOPInstanceUID = MRImageStorage, generate_uid()
        found.SeriesInstanceUID, found.StudyInstanceUID = series, study
        found.PatientName, found.PatientID, found.Modality = PATIENT, "secret-7", "MR"
        found.SeriesNumber, found.InstanceNumber = 3, number + 1
        found.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        found.ImagePositionPatient = [0, 0, 5 * number]
        found.PixelSpacing, found.SliceThickness = [1, 1], 5
        found.Rows, found.Columns = pixels.shape
        found.BitsAllocated, found.BitsStored, found.HighBit = 8, 8, 7
        found.PixelRepresentation, found.SamplesPerPixel = 0, 1
        found.PhotometricInterpretation, found.PixelData = "MONOCHROME2", pixels.tobytes()
        found.file_meta = pydicom.dataset.FileMetaDataset()
        found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        found.file_meta.MediaStorageSOPClassUID = MRImageStorage
        stream = io.BytesIO()
        pydicom.dcmwrite(stream, found, enforce_file_format=True)
        files[f"IM{number:04d}.dcm"] = stream.getvalue()
    return files


def all_text(shown):
    """Return every text that the widgets of a page hold."""
    texts = [str(getattr(shown, "value", ""))]
    texts += [str(getattr(shown, "options", ""))]
    return " ".join([*texts, *(all_text(child) for child in getattr(shown, "children", ()))])


def drop(shown, *files):
    shown.upload.value = [
        {"name": one["name"], "content": one["content"], "type": "", "size": len(one["content"]),
         "last_modified": datetime.now(timezone.utc)} for one in files
    ]  # fmt: skip


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.parametrize("name", ["../../evil.png", "/etc/evil.png", "a\nb.png", "C:\\x.png", ""])
def test_the_name_of_an_upload_is_never_a_path(tmp_path, name):
    inside = tmp_path / "inside"
    inside.mkdir()
    saved = uploads.save_uploads([upload(name, png(9))], inside)
    assert list(saved.names.values()) == [name]
    assert [file.parent for file in saved.names] == [inside]
    assert list(tmp_path.iterdir()) == [inside]


def test_files_of_an_archive_stay_in_the_folder_whatever_their_names(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    packed = archive({"../../evil.png": png(9), "deep/a.png": png(8), "__MACOSX/._a.png": b"x",
                      "deep/.DS_Store": b"x"})  # fmt: skip
    saved = uploads.save_uploads([upload("scan.zip", packed)], inside)
    assert set(saved.names.values()) == {"scan.zip/../../evil.png", "scan.zip/deep/a.png"}
    assert {file.parent for file in saved.names} == {inside}
    assert list(tmp_path.iterdir()) == [inside] and not saved.problems


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (archive({"zeros.nii": bytes(3_000_000)}), "larger than"),
        (archive({f"{number}.png": b"" for number in range(30)}), "more than 20 files"),
        (archive({"a.png": png(1)})[:-40], "damaged"),
        (archive({}), "empty"),
        (archive({"a.png": png(1)}).replace(b"\x14\x00\x00\x00", b"\x14\x00\x01\x00"), "encrypted"),
    ],
    ids=["bomb", "many files", "cut short", "empty", "encrypted"],
)
def test_an_archive_that_cannot_be_taken_is_named_with_a_reason(
    tmp_path, monkeypatch, content, reason
):
    monkeypatch.setattr(uploads, "UNPACKED_BYTES", 1_000_000)
    monkeypatch.setattr(uploads, "MOST_FILES", 20)
    saved = uploads.save_uploads([upload("scan.zip", content)], tmp_path)
    assert len(saved.problems) == 1 and saved.problems[0].startswith("scan.zip: ")
    assert reason in saved.problems[0]
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 1_000_000
    assert set(tmp_path.iterdir()) == set(saved.names)


def test_all_archives_of_an_upload_share_the_room(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "UNPACKED_BYTES", 1_000_000)
    content = archive({"zeros.nii": bytes(700_000)})
    saved = uploads.save_uploads([upload(f"{n}.zip", content) for n in range(3)], tmp_path)
    assert len(saved.names) == 1 and len(saved.problems) == 2
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 1_000_000


def test_uploads_of_one_name_are_two_studies(temporary):
    files = [upload("slice.png", png(200)), upload("slice.png", png(20))]
    reading = app.read_uploads(stand_in(), files)
    assert [study.name for study in reading.studies] == ["slice.png", "slice.png (2)"]
    assert reading.studies[0].answer["glioma"] > reading.studies[1].answer["glioma"]


def test_each_bad_file_is_one_sentence_and_the_rest_is_answered(temporary):
    bad = {"cut <i>.jpg": png(5)[:40], "notes.txt": b"hello", "volume.nii": b"\x00" * 500}
    files = [upload(name, content) for name, content in bad.items()]
    reading = app.read_uploads(stand_in(), [*files, upload("good.png", png(250))])
    assert [study.answer["class"] for study in reading.studies] == ["glioma"]
    assert len(reading.problems) == 3
    for name in bad:
        assert [name in problem for problem in reading.problems].count(True) == 1
    shown = wording.problem_list(reading.problems)
    assert str(temporary) not in shown and "Traceback" not in shown
    assert "<i>" not in shown and "&lt;i&gt;" in shown


def test_an_upload_leaves_no_file_behind(temporary):
    app.read_uploads(stand_in(), [upload("a.png", png(9)), upload("z.zip", archive({"b": b"x"}))])
    with pytest.raises(app.PageError, match=r"notes\.txt"):
        app.read_uploads(stand_in(), [upload("notes.txt", b"hello")])
    assert list(temporary.iterdir()) == []


def test_what_identifies_a_patient_is_nowhere_on_the_page(temporary):
    files = dicom_series([np.full((30, 30), grey, np.uint8) for grey in (9, 99, 199)])
    shown = view.Page(stand_in())
    drop(shown, *(upload(name, content) for name, content in files.items()))
    text = all_text(shown.box)
    assert "3-" in text  # the series has a name, of its number and a hash
    links = re.findall(r"base64,([^\"]+)", text)
    told = text + " ".join(base64_text(link) for link in links)
    assert "IM0002.dcm" in told
    assert "Doe" not in told and "secret-7" not in told


def base64_text(link):
    return base64.b64decode(link).decode()


def test_uploads_one_after_the_other_replace_each_other(temporary):
    shown = view.Page(stand_in())
    drop(shown, upload("first.png", png(240)))
    assert "first.png" in all_text(shown.box)
    drop(shown, upload("second.png", png(240)))
    assert "second.png" in all_text(shown.box) and "first.png" not in all_text(shown.box)
    drop(shown, upload("second.png", png(240)))  # the same once more
    assert "second.png" in all_text(shown.box) and not shown.upload.value
    assert not shown.upload.disabled


def test_what_nobody_foresaw_is_a_sentence_too_and_the_page_goes_on(temporary, caplog):
    def fail(pixels):
        raise ZeroDivisionError("secret detail")

    shown = view.Page(inference.Classifier(fail, Path("model.keras"), "onnx"))
    drop(shown, upload("a.png", png(9)))
    assert "not foreseen" in shown.status.value and "secret detail" not in all_text(shown.box)
    assert not shown.upload.disabled and "ZeroDivisionError" in caplog.text


def test_a_model_that_is_not_there_is_said_on_the_page(tmp_path):
    shown = app.open_page(tmp_path / "absent.keras")
    assert "absent.onnx" in all_text(shown) and not hasattr(shown.children[0], "upload")


def test_the_slider_opens_at_the_slice_that_decided_and_shows_each(temporary):
    greys = (9, 99, 240, 30)
    files = dicom_series([np.full((30, 30), grey, np.uint8) for grey in greys])
    rule = {"pooling": {"kind": "top", "average": "probability", "share": 0.0, "least": 1},
            "temperature": 1.0, "offsets": dict.fromkeys(CLASS_NAMES, 0.0)}  # fmt: skip
    rules = {"study": rule, "conformal": {"coverage": 0.9, "thresholds": dict.fromkeys(
        CLASS_NAMES, 0.5)}, "reliability": [], "limits": {}}  # fmt: skip
    shown = view.Page(stand_in(rules=rules))
    reading = app.read_uploads(
        shown.classifier, [upload(name, content) for name, content in files.items()]
    )
    assert len(reading.studies) == 1 and len(reading.studies[0].slices) == 4
    study = view.StudyView(shown, reading, reading.studies[0])
    opened = study.slider.value
    assert opened == reading.studies[0].deciding[0]
    assert study.slider.min == 0 and study.slider.max == 3
    for place in range(4):
        study.slider.value = place
        assert study.picture.format == "png"
        seen = np.asarray(Image.open(io.BytesIO(study.picture.value)))
        assert (seen == reading.studies[0].slices[place].pixels[0, 0]).all()


def test_a_step_of_the_slider_takes_less_than_a_tenth_of_a_second():
    pixels = np.random.default_rng(0).integers(0, 256, (512, 512)).astype(np.uint8)
    spot = disc(0.5)
    for layer in drawing.LAYERS:
        taken = []
        for _ in range(5):
            start = time.process_time()
            drawing.draw_slice(pixels, layer, spot, spot)
            taken.append(time.process_time() - start)
        assert min(taken) < 0.1, layer


def disc(radius):
    rows, columns = np.mgrid[-1:1:64j, -1:1:64j]
    return (1 / (1 + np.exp(20 * (np.hypot(rows, columns) - radius)))).astype(np.float32)


def test_the_outline_is_drawn_where_the_map_is_at_its_threshold():
    black = np.zeros((100, 100), np.uint8)
    kind, content = drawing.draw_slice(black, "outline", disc(0.5), disc(0.5), size=200)
    drawn = np.asarray(Image.open(io.BytesIO(content))).sum(axis=2)
    assert kind == "jpeg" and drawn.shape == (200, 200)
    rows, columns = np.nonzero(drawn > 250)
    radii = np.hypot(rows - 99.5, columns - 99.5) / 100
    reached = 0.5 + np.log(1 / OUTLINE_THRESHOLD - 1) / 20  # where `disc` has that value
    assert len(radii) > 200 and np.abs(radii - reached).max() < 0.04


def test_the_heat_map_colours_where_it_is_high_and_leaves_the_rest():
    grey = np.full((80, 40), 100, np.uint8)
    _, content = drawing.draw_slice(grey, "heat map", None, disc(0.3), size=160)
    drawn = np.asarray(Image.open(io.BytesIO(content))).astype(int)
    assert drawn.shape == (160, 80, 3)
    assert np.ptp(drawn[80, 40]) > 40  # coloured
    assert np.abs(drawn[2, 2] - 100).max() <= 3
    kind, _ = drawing.draw_slice(grey, "heat map", None, np.zeros((64, 64)))
    assert kind == "png"  # a map of nothing


def test_classes_have_the_colours_of_the_figures():
    assert drawing.CLASS_COLORS == plots.CLASS_COLORS


def test_a_refused_slice_has_its_reason_and_no_class(temporary, monkeypatch):
    monkeypatch.setattr(inference.classifier.gate, "refuse", lambda gate, one: "it is <blank>")
    shown = view.Page(stand_in(gate=object()))
    drop(shown, upload("a.png", png(0)))
    text = all_text(shown.box)
    assert "No answer" in text and "it is &lt;blank&gt;" in text and "<blank>" not in text
    assert "Glioma" not in text


def test_of_a_notebook_only_the_parameters_and_the_page_are_run():
    notebook = nbformat.v4.new_notebook()
    for source, tags in (("a = 1", ["parameters"]), ("import os", []), ("page.show(a)", ["page"])):
        notebook.cells.append(nbformat.v4.new_code_cell(source, metadata={"tags": tags}))
    sources = [cell.source for cell in server.page_cells(notebook, {"a": "x"}).cells]
    assert sources == ["a = 1", "from brainlib.report import app\na = 'x'", "page.show(a)"]
    assert len(notebook.cells) == 3
    del notebook.cells[2]
    with pytest.raises(app.PageError, match="tag 'page'"):
        server.page_cells(notebook)


def test_the_page_opens_without_tensorflow():
    pytest.importorskip("onnxruntime")
    program = (
        "import sys\nfrom brainlib.report import app\napp.open_page()\n"
        "heavy = {'tensorflow', 'keras', 'matplotlib', 'seaborn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_page_without_the_file_of_its_maps_says_so():
    shown = view.Page(stand_in())
    drop(shown, upload("a.png", png(1)))
    assert "No outline and no heat map can be drawn" in all_text(shown.box)
    assert "model_maps.onnx" in all_text(shown.box)


@pytest.fixture(scope="module")
def plain_model(tmp_path_factory):
    """Return the released network without its gate, which would refuse what is made up here."""
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("model")
    for ending in (".keras", ".onnx", "_maps.onnx"):
        shutil.copy(paths.resolve(f"model/brain_tumor{ending}"), folder)
    return folder / "brain_tumor.keras"


@pytest.fixture(scope="module")
def served(plain_model, tmp_path_factory):
    """Give the address of a served page, and its temporary folder."""
    pytest.importorskip("voila")
    folder = tmp_path_factory.mktemp("served")
    program = (
        "import logging, sys, tempfile\nfrom brainlib.report import app\n"
        "logging.basicConfig(format='%(message)s', level=logging.INFO)\n"
        "tempfile.tempdir = sys.argv[1]\n"
        "app.serve(port=0, open_browser=False, token=sys.argv[2],"
        " parameters={'model': sys.argv[3]})\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(folder), TOKEN, str(plain_model)],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        line = next(line for line in process.stderr if "http://" in line)
        yield re.search(r"http://\S+", line)[0], folder
    finally:
        process.terminate()
        process.wait(30)
        process.stderr.close()
    assert list(folder.iterdir()) == []  # it takes its temporary files along


@pytest.fixture
def browser(tmp_path):
    if not (CHROMIUM and CHROMEDRIVER):
        pytest.skip("needs chromium and chromedriver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    preferences = {"download.default_directory": str(tmp_path / "saved")}
    options.add_experimental_option("prefs", preferences)
    opened = webdriver.Chrome(options, webdriver.ChromeService(CHROMEDRIVER))
    opened.set_script_timeout(60)
    yield opened
    opened.quit()


def test_the_page_is_for_this_machine_and_for_who_has_the_token(served):
    url, _ = served
    assert url.startswith("http://127.0.0.1:")
    root = url.split("?")[0]
    with urllib.request.urlopen(root) as answer:
        assert "/login" in answer.url and b"brainlib" not in answer.read()
    for path in ("04_infer.ipynb", "voila/files/04_infer.ipynb"):
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{root}{path}?token={TOKEN}")


def test_a_visitor_uploads_scans_and_reads_the_answers(served, browser, plain_model, tmp_path):
    url, temporary = served
    files = write_scans(tmp_path)
    expected = answers(plain_model, files)
    browser.get(url)
    wait(browser, ".brainlib-drop button")
    assert "not a medical device" in browser.find_element("tag name", "body").text
    assert not browser.find_elements("css selector", "pre, table")  # no other cell of the notebook
    let_uploads_be_typed(browser)

    choose(browser, files["picture"])
    assert headline(browser, "slice.png") == expected["picture"]
    choose(browser, *files["series"])
    wait_for(browser, lambda: len(browser.find_elements("css selector", ".brainlib-ribbon i")) == 4)
    before = picture_of(browser)
    browser.find_element("css selector", ".noUi-handle").send_keys("\ue014")  # arrow to the right
    wait_for(browser, lambda: picture_of(browser) != before)
    choose(browser, files["volume"])
    wait_for(browser, lambda: "volume.nii.gz" in shown_name(browser))
    choose(browser, files["damaged"])
    wait_for(browser, lambda: browser.find_elements("css selector", ".brainlib-problems"))
    told = browser.find_element("css selector", ".brainlib-problems").text
    assert "damaged.png" in told and "Traceback" not in told
    drop_file(browser, files["archive"])
    wait_for(browser, lambda: len(browser.find_elements("css selector", ".brainlib-ribbon i")) == 4)
    link = wait(browser, ".brainlib-links a[download='predictions.csv']")
    link.click()
    saved = tmp_path / "saved" / "predictions.csv"
    # the browser makes the file first and fills it later
    wait_for(browser, lambda: saved.is_file() and saved.stat().st_size)
    table = saved.read_text(encoding="utf-8").splitlines()
    assert len(table) == 5 and table[0].split(",") == list(inference.COLUMNS)
    browser.execute_script(
        "document.querySelector('[data-megabytes]').dataset.megabytes = '0.0001'"
    )
    drop_file(browser, files["archive"])
    assert "choose fewer" in wait(browser, ".brainlib-toolarge").text
    assert not list(temporary.rglob("brainlib-upload-*"))


def write_scans(folder):
    """Write a picture, a series, a zip of it, a volume and a damaged file; return their paths."""
    template = load_mni152_template(resolution=4)
    volume = np.asarray(template.dataobj)
    slices = [(volume[:, :, k].T[::-1] / volume.max() * 255).astype(np.uint8)
              for k in (15, 20, 25, 30)]  # fmt: skip
    series = {folder / name: content for name, content in dicom_series(slices).items()}
    for file, content in series.items():
        file.write_bytes(content)
    found = {"picture": folder / "slice.png", "series": list(series),
             "archive": folder / "series.zip", "volume": folder / "volume.nii.gz",
             "damaged": folder / "damaged.png"}  # fmt: skip
    Image.fromarray(slices[1]).save(found["picture"])
    found["archive"].write_bytes(archive({file.name: one for file, one in series.items()}))
    found["damaged"].write_bytes(found["picture"].read_bytes()[:300])
    nibabel.save(template, found["volume"])
    return found


def answers(model, files):
    classifier = inference.open_classifier(model)
    found = inference.classify(classifier, imaging.open_scans(files["picture"]))
    return {"picture": wording.words.NAMES[found["class"][0]].capitalize()}


def let_uploads_be_typed(browser):
    """Put the hidden file input into the page when it is asked for, so that a driver gets at it."""
    browser.execute_script(
        "const open = HTMLInputElement.prototype.click;"
        "HTMLInputElement.prototype.click = function () {"
        "  if (window.typed) { this.id = 'probe'; document.body.append(this); }"
        "  else open.call(this); };"
    )


def choose(browser, *files):
    wait(browser, ".brainlib-drop button:not([disabled])")
    browser.execute_script("window.typed = true")
    browser.find_element("css selector", ".brainlib-drop button").click()
    probe = browser.find_element("id", "probe")
    browser.execute_script("arguments[0].value = ''; arguments[0].style.display = 'block'", probe)
    probe.send_keys("\n".join(str(file) for file in files))
    browser.execute_script("window.typed = false; arguments[0].remove()", probe)


def drop_file(browser, file):
    wait(browser, ".brainlib-drop button:not([disabled])")
    browser.execute_script(
        "const moved = new DataTransfer();"
        "moved.items.add(new File([Uint8Array.from(arguments[0])], arguments[1]));"
        "document.querySelector('.brainlib-drop').dispatchEvent("
        "  new DragEvent('drop', {dataTransfer: moved, bubbles: true, cancelable: true}));",
        list(file.read_bytes()), file.name,
    )  # fmt: skip


def headline(browser, name):
    wait_for(browser, lambda: name in shown_name(browser))
    return browser.find_element("css selector", ".brainlib-study h2").text.split("\n")[0].split(
        " over")[0].rstrip(" 0123456789%")  # fmt: skip


def shown_name(browser):
    names = browser.find_elements("css selector", ".brainlib-name")
    return names[0].text if names else ""


def picture_of(browser):
    return browser.find_element("css selector", ".brainlib-picture").get_attribute("src")


def wait(browser, selector):
    wait_for(browser, lambda: browser.find_elements("css selector", selector))
    return browser.find_element("css selector", selector)


def wait_for(browser, is_true, seconds=90):
    from selenium.common.exceptions import StaleElementReferenceException

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if is_true():
                return
        except StaleElementReferenceException:  # the page has just changed
            pass
        time.sleep(0.05)
    pytest.fail("waited in vain; the page says: " + browser.find_element("tag name", "body").text)
