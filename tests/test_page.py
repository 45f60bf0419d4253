"""The app: what is uploaded, what is answered, and the page itself in a real browser."""

import base64
import http.client
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
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest
from nilearn.datasets import load_mni152_template
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

import brainlib
from brainlib import explain, imaging, inference, paths, report
from brainlib.report import ReportError, app, words
from brainlib.report.answers import Model
from brainlib.report.app import server, uploads, view

CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
TOKEN = "of-the-test"
PATIENT = "Doe^Jane"


def brightness(pixels):
    """Stand in for a network: the brighter an image, the surer it is of a glioma."""
    bright = pixels.mean(axis=(1, 2, 3)) / 255
    rest = (1 - bright) / 3
    return np.stack([bright, rest, rest, rest], axis=1).astype(np.float32)


def stand_in(predict=brightness, **parts):
    return Model(inference.Classifier(predict, Path("model.keras"), "onnx", **parts))


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
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    files = {}
    for number, pixels in enumerate(slices):
        header = pydicom.Dataset()
        for name, value in {
            "SOPClassUID": MRImageStorage, "SOPInstanceUID": generate_uid(),
            "SeriesInstanceUID": series, "StudyInstanceUID": study, "FrameOfReferenceUID": frame,
            "PatientName": PATIENT, "PatientID": "secret-7", "PatientBirthDate": "19700101",
            "StudyDescription": PATIENT, "Modality": "MR", "SeriesNumber": 3,
            "SeriesDescription": f"Ax T1 of {PATIENT}", "InstanceNumber": number + 1,
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "ImagePositionPatient": [0, 0, 5 * number], "PixelSpacing": [1, 1],
            "SliceThickness": 5, "Rows": pixels.shape[0], "Columns": pixels.shape[1],
            "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0,
            "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2",
            "PixelData": pixels.tobytes(),
        }.items():  # fmt: skip
            setattr(header, name, value)
        header.file_meta = pydicom.dataset.FileMetaDataset()
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        stream = io.BytesIO()
        pydicom.dcmwrite(stream, header, enforce_file_format=True)
        files[f"IM{number:04d}.dcm"] = stream.getvalue()
    return files


def all_text(shown):
    """Return every text that the widgets of a page hold."""
    texts = [str(getattr(shown, "value", ""))]
    texts += [str(getattr(shown, "options", ""))]
    return " ".join([*texts, *(all_text(child) for child in getattr(shown, "children", ()))])


def give(shown, *files):
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


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../../evil.png", "evil.png"), ("/etc/evil.png", "evil.png"), ("a\nb.png", "a b.png"),
        ("C:\\x.png", "x.png"), ("", "unnamed"), ("..", "unnamed"), ("\x1b[31m.png", "[31m.png"),
    ],
)  # fmt: skip
def test_the_name_of_an_upload_is_never_a_path(tmp_path, name, safe):
    inside = tmp_path / "inside"
    inside.mkdir()
    uploads.save_uploads([upload(name, png(9))], inside)
    assert [str(file.relative_to(inside)) for file in inside.rglob("*") if file.is_file()] == [
        f"00000/{safe}"
    ]
    assert list(tmp_path.iterdir()) == [inside]


@pytest.mark.parametrize(
    "content",
    [
        archive({"a.png": png(1)})[:-40],
        archive({}),
        archive({"a.png": png(1)}).replace(b"\x14\x00\x00\x00", b"\x14\x00\x01\x00"),
    ],
    ids=["cut short", "empty", "encrypted"],
)
def test_an_archive_that_cannot_be_taken_is_answered_with_a_reason(temporary, content):
    answers, problems = app.read_uploads(stand_in(), [upload("scan.zip", content)])
    assert not problems and len(answers) == 1
    assert answers[0].decision.startswith("unreadable: scan.zip: ")
    assert str(temporary) not in str(answers[0].slices.to_dict()), answers[0].decision


def test_each_bad_file_is_one_sentence_or_one_answer_and_the_rest_is_classified(temporary):
    bad = {"cut <i>.jpg": png(5)[:40], "notes.txt": b"hello", "volume.nii": b"\x00" * 500}
    files = [upload(name, content) for name, content in bad.items()]
    files += [upload("slice.png", png(250)), upload("slice.png", png(20))]
    answers, problems = app.read_uploads(stand_in(), files)
    assert [answer.name for answer in answers] == [
        "cut <i>.jpg", "volume.nii", "slice.png", "slice.png (2)",
    ]  # fmt: skip
    assert [answer.decision.split(":")[0] for answer in answers[:2]] == ["unreadable"] * 2
    assert answers[2].probabilities["glioma"] > answers[3].probabilities["glioma"]
    assert len(problems) == 1 and problems[0].startswith("notes.txt: ")
    shown = view.Page(stand_in())
    give(shown, *files)
    text = all_text(shown.box)
    assert str(temporary) not in text and "Traceback" not in text and "<i>.jpg" not in text.replace(
        "&lt;", "<").split("brainlib-chooser")[0].replace("cut <i>.jpg", "")  # fmt: skip


def test_an_upload_leaves_no_file_behind(temporary):
    app.read_uploads(stand_in(), [upload("a.png", png(9)), upload("z.zip", archive({"b": b"x"}))])
    with pytest.raises(ReportError, match=r"notes\.txt"):
        app.read_uploads(stand_in(), [upload("notes.txt", b"hello")])
    assert list(temporary.iterdir()) == []


def test_more_slices_than_fit_on_a_page_are_refused_and_not_cut(temporary, monkeypatch):
    monkeypatch.setattr(uploads, "MOST_SLICES", 2)
    with pytest.raises(ReportError, match="more than 2 slices"):
        app.read_uploads(stand_in(), [upload(f"{n}.png", png(9)) for n in range(3)])


def test_what_identifies_a_patient_is_nowhere_on_the_page(temporary):
    files = dicom_series([np.full((30, 30), grey, np.uint8) for grey in (9, 99, 199)])
    shown = view.Page(stand_in())
    give(shown, *(upload(name, content) for name, content in files.items()))
    text = all_text(shown.box)
    assert "3-" in text  # the series has a name, of its number and a hash
    links = re.findall(r"base64,([^\"]+)", text)
    told = text + " ".join(base64_text(link) for link in links)
    assert "IM0002.dcm" in told
    assert "Doe" not in told and "secret-7" not in told


def base64_text(link):
    return base64.b64decode(link).decode()


def test_what_was_just_dropped_is_what_is_shown(temporary):
    shown = view.Page(stand_in())
    for names in (["b.png"], ["z.png", "a.png"], ["notes.txt"], ["b.png"], ["b.png"]):
        give(shown, *(upload(name, png(240) if name.endswith("png") else b"x") for name in names))
        text = all_text(shown.box)
        if names[0].endswith("png"):
            views = all_text(shown.answer.children[-1])
            assert f'<p class="brainlib-name">{names[0]}</p>' in views
            assert "notes.txt" not in text, "an old notice goes"
        else:
            assert "notes.txt" in text and not shown.answer.children
        others = {"a.png", "b.png", "z.png"} - set(names)
        assert not [name for name in others if name in text]
        assert not shown.upload.value and not shown.upload.disabled


def test_what_nobody_foresaw_is_a_sentence_too_and_the_page_goes_on(temporary, caplog):
    def fail(pixels):
        raise ZeroDivisionError("secret detail")

    shown = view.Page(stand_in(fail))
    give(shown, upload("a.png", png(9)))
    assert "not foreseen" in shown.status.value and "secret detail" not in all_text(shown.box)
    assert not shown.upload.disabled and "ZeroDivisionError" in caplog.text


def test_a_model_that_is_not_there_is_said_on_the_page(tmp_path):
    shown = app.open_page(tmp_path / "absent.keras")
    assert "absent.onnx" in all_text(shown) and not hasattr(shown.children[0], "upload")


def test_the_slider_opens_at_the_slice_that_decided_and_shows_each(temporary):
    study = studied((9, 99, 240, 30))
    assert study.numbers[study.slider.value] == study.answer.deciding[0] == 3
    assert "Slice 3 of 4, axial" in " ".join(study.line.value.split())
    for place in range(4):
        study.slider.value = place
        grey = study.answer.pixels[place + 1][0, 0]
        assert shown(study)[200, 200] == pytest.approx(grey, abs=1)
    study.window.value = (30, 60)
    assert shown(study)[200, 200] == pytest.approx((grey - 30) * 255 / 30, abs=1)


def test_other_planes_and_a_part_of_a_slice_can_be_looked_at(temporary):
    study = studied((9, 99, 240, 30), size=(40, 24))
    study.planes.value = "sagittal"
    assert "Sagittal 13 of 24, cut from the axial slices" in study.line.value
    assert study.answer.images[1].affine[1, 0] < 0  # rows lead to the back
    # five millimetres a slice, the head on top
    rows = shown(study)[[35, 105, 175, 245], 200].astype(int)
    assert rows == pytest.approx([30, 240, 99, 9], abs=40) and shown(study).shape == (280, 560)
    study.planes.value, study.zoom.value, study.across.value = "axial", 4, 0
    study.answer.pixels[3][:, 12:] = 0
    study.slider.value = 2
    assert shown(study)[50, 300] == pytest.approx(240, abs=2)
    study.across.value = 1
    assert shown(study)[50, 300] == pytest.approx(0, abs=2)


def studied(greys, size=(30, 30)):
    files = dicom_series([np.full(size, grey, np.uint8) for grey in greys])
    uploaded = [upload(name, content) for name, content in files.items()]
    answers, _ = app.read_uploads(stand_in(), uploaded)
    assert len(answers) == 1
    return view.StudyView(answers[0], answers)


def shown(study):
    return np.asarray(Image.open(io.BytesIO(study.image.value)))


class Bright:
    """Maps that call the brightest pixels a tumour."""

    def __init__(self, drawer, images):
        self.images = list(images)

    def in_images(self):
        """Give outline and heat map of each image."""
        return (((one > 200).astype(np.float32), one / np.float32(255)) for one in self.images)


@pytest.fixture
def reported(tmp_path, monkeypatch):
    """Return a function that classifies files one by one and writes their reports."""
    monkeypatch.setattr(explain, "draw_maps", Bright)

    def write(*files):
        model = stand_in(
            lambda pixels: np.tile(np.float32([0.9, 0.04, 0.03, 0.03]), (len(pixels), 1))
        )
        model.drawer = "a drawer"
        scans = [scan for file in files for scan in imaging.list_scans(file)]
        tables = [inference.classify(model.classifier, inference.read_slices(scan))
                  for scan in scans]  # fmt: skip
        studies = pd.concat([inference.summarise(model.classifier, one) for one in tables])
        report.write_reports(model, scans, pd.concat(tables), studies, tmp_path / "reports")
        return sorted((tmp_path / "reports").iterdir())

    return write


VOXELS = np.random.default_rng(0).integers(0, 100, (24, 30, 8)).astype(np.uint8)
VOXELS[5:9, 10:14, 2:5] = 250  # rows, columns, slices


@pytest.mark.parametrize("axes", ["LPS", "SRA", "AIL"])
def test_the_outline_is_saved_in_the_grid_of_the_scan(reported, tmp_path, axes):
    image = nibabel.Nifti1Image(VOXELS, np.diag([1, 2, 3, 1]))
    orientation = nibabel.orientations.axcodes2ornt(axes)
    image = image.as_reoriented(orientation)
    nibabel.save(image, tmp_path / "scan.nii.gz")
    files = {file.name: file for file in reported(tmp_path / "scan.nii.gz")}
    assert list(files) == ["index.html", "scan.html", "scan.outline.nii.gz"]
    mask = nibabel.load(files["scan.outline.nii.gz"])
    assert np.allclose(mask.affine, image.affine)
    wrong = np.asarray(mask.dataobj) != (np.asarray(image.dataobj) == 250)
    assert wrong.mean() < 0.01  # at its border, where pixels were made square
    assert "scan.outline.nii.gz" in files["scan.html"].read_text(encoding="utf-8")


def test_the_outline_of_a_series_is_a_dicom_segmentation_without_a_name(reported, tmp_path):
    highdicom = pytest.importorskip("highdicom")
    (tmp_path / PATIENT).mkdir()
    for name, content in dicom_series(np.moveaxis(VOXELS, 2, 0)).items():
        (tmp_path / PATIENT / name).write_bytes(content)
    files = {file.name.partition(".")[2]: file for file in reported(tmp_path / PATIENT)}
    volume = highdicom.seg.segread(files["outline.dcm"]).get_volume()
    places = np.argwhere(volume.array[..., 0]) @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    assert len(places) == 48  # x to the left, y to the back, z to the head, mm
    assert places.min(axis=0) == pytest.approx([10, 5, 10])
    assert places.max(axis=0) == pytest.approx([13, 8, 20])
    for file in files.values():
        assert not [word for word in (b"Doe", b"secret-7", b"1970") if word in file.read_bytes()]


def test_studies_of_one_name_have_a_report_each(reported, tmp_path):
    for folder, count in (("a", 8), ("b", 5)):
        (tmp_path / folder).mkdir()
        image = nibabel.Nifti1Image(VOXELS[:, :, :count], np.diag([1, 1, 5, 1]))
        nibabel.save(image, tmp_path / folder / "x.nii")
    files = reported(tmp_path / "a" / "x.nii", tmp_path / "b" / "x.nii")
    texts = {file.name: file.read_text("utf-8") for file in files if file.suffix == ".html"}
    assert list(texts) == ["index.html", "x-2.html", "x.html"]
    assert "of 8" in texts["x.html"] and "of 8" not in texts["x-2.html"]
    assert "of 5" in texts["x-2.html"] and texts["index.html"].count("<a href=") == 2


def test_a_refused_slice_has_its_reason_and_no_class(temporary, monkeypatch):
    monkeypatch.setattr(inference.classifier.gate, "refuse", lambda gate, one: "it is <blank>")
    shown = view.Page(stand_in(gate=object()))
    give(shown, upload("a.png", png(0)))
    text = all_text(shown.box)
    assert "it is &lt;blank&gt;" in text and "<blank>" not in text and "Glioma" not in text


def test_the_page_opens_without_tensorflow():
    program = (
        "import sys\nfrom brainlib.report import app\napp.open_page()\n"
        "heavy = {'tensorflow', 'keras', 'matplotlib', 'seaborn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_page_without_the_file_of_its_maps_says_so(temporary):
    shown = view.Page(stand_in())
    give(shown, upload("a.png", png(1)))
    assert "No outline can be drawn" in all_text(shown.box)
    assert "model_maps.onnx" in all_text(shown.box)


def test_folders_of_killed_servers_are_cleaned_and_others_are_left(temporary):
    stale, alive = temporary / "brainlib-page-stale", temporary / "brainlib-page-alive"
    stale.mkdir()
    program = (
        "import sys\nfrom pathlib import Path\nfrom brainlib import paths\n"
        "with paths.locked(Path(sys.argv[1])):\n    print('owned', flush=True)\n    input()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, alive], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as owner:  # fmt: skip
        assert owner.stdout.readline() == b"owned\n"
        server._remove_leftovers()
        assert not stale.exists() and alive.exists()
        owner.kill()


@pytest.fixture(scope="module")
def plain_model(tmp_path_factory):
    """Return the released network without its gate, which would refuse what is made up here."""
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("model")
    for ending in (".keras", ".onnx", "_maps.onnx"):
        shutil.copy(paths.resolve(f"model/lesion_net{ending}"), folder)
    return folder / "lesion_net.keras"


@pytest.fixture(scope="module")
def served(plain_model, tmp_path_factory):
    """Give the address of a served page, and its temporary folder."""
    pytest.importorskip("voila")
    folder = tmp_path_factory.mktemp("served")
    program = (
        "import logging, sys, tempfile\nfrom brainlib.report import app\n"
        "logging.basicConfig(format='%(message)s', level=logging.INFO)\n"
        "tempfile.tempdir = sys.argv[1]\n"
        "app.serve(sys.argv[3], port=0, open_browser=False, token=sys.argv[2])\n"
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
    for path in ("brainlib.ipynb", "voila/files/brainlib.ipynb"):
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{root}{path}?token={TOKEN}")


@pytest.mark.parametrize(("foreign", "status"), [(False, 101), (True, 403)])
def test_a_foreign_page_cannot_talk_to_the_kernel_even_with_the_token(served, foreign, status):
    url, _ = served
    host = url.split("/")[2]
    with urllib.request.urlopen(url) as answer:
        kernel = re.search(r'"kernelId": "([^"]+)"', answer.read().decode())[1]
    with closing(http.client.HTTPConnection(host)) as connection:
        connection.request("GET", f"/api/kernels/{kernel}/channels?token={TOKEN}", headers={
            "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(),
            "Origin": "http://evil.example" if foreign else f"http://{host}",
        })  # fmt: skip
        with connection.getresponse() as answer:
            assert answer.status == status


def test_a_visitor_uploads_scans_and_reads_the_answers(served, browser, plain_model, tmp_path):
    url, temporary = served
    files = write_scans(tmp_path)
    browser.get(url)
    wait(browser, ".brainlib-drop button")
    assert "not a medical device" in browser.find_element("tag name", "body").text
    assert not browser.find_elements("css selector", "pre, table")  # no other cell of the notebook
    drop(browser, files["image"])
    assert headline(browser, "slice.png").startswith(expected_title(plain_model, files["image"]))
    drop(browser, *files["series"])
    wait_for(browser, lambda: len(browser.find_elements("css selector", ".brainlib-ribbon i")) == 4)
    before = image_of(browser)
    browser.find_element("css selector", ".noUi-handle").send_keys("\ue014")  # arrow to the right
    wait_for(browser, lambda: image_of(browser) != before)
    drop(browser, files["volume"])
    wait_for(browser, lambda: "volume.nii.gz" in shown_name(browser))
    drop(browser, files["damaged"])
    assert headline(browser, "damaged.png") == "Could not be read"
    told = browser.find_element("css selector", ".brainlib-study").text
    assert "is cut short" in told and "Traceback" not in told
    drop(browser, files["archive"])
    wait_for(browser, lambda: len(browser.find_elements("css selector", ".brainlib-ribbon i")) == 4)
    wait(browser, ".brainlib-links a[download='predictions.csv']").click()
    saved = tmp_path / "saved" / "predictions.csv"
    # the browser makes the file first and fills it later
    wait_for(browser, lambda: saved.is_file() and saved.stat().st_size)
    table = saved.read_text(encoding="utf-8").splitlines()
    assert len(table) == 5 and table[0].split(",") == list(inference.COLUMNS)
    browser.execute_script(
        "document.querySelector('[data-megabytes]').dataset.megabytes = '0.0001'"
    )
    drop(browser, files["archive"])
    assert "choose fewer" in wait(browser, ".brainlib-toolarge").text
    assert not list(temporary.rglob("brainlib-upload-*"))


def write_scans(folder):
    """Write an image, a series, a zip of it, a volume and a damaged file; return their paths."""
    template = load_mni152_template(resolution=4)
    volume = np.asarray(template.dataobj)
    slices = [(volume[:, :, k].T[::-1] / volume.max() * 255).astype(np.uint8)
              for k in (15, 20, 25, 30)]  # fmt: skip
    series = {folder / name: content for name, content in dicom_series(slices).items()}
    for file, content in series.items():
        file.write_bytes(content)
    found = {"image": folder / "slice.png", "series": list(series),
             "archive": folder / "series.zip", "volume": folder / "volume.nii.gz",
             "damaged": folder / "damaged.png"}  # fmt: skip
    Image.fromarray(slices[1]).save(found["image"])
    found["archive"].write_bytes(archive({file.name: one for file, one in series.items()}))
    found["damaged"].write_bytes(found["image"].read_bytes()[:300])
    nibabel.save(template, found["volume"])
    return found


def expected_title(model, file):
    return words.headline(brainlib.load(model)(file))["title"]


def drop(browser, *files):
    wait(browser, ".brainlib-drop button:not([disabled])")
    browser.execute_script(
        "const moved = new DataTransfer();"
        "for (const [name, bytes] of arguments[0])"
        "  moved.items.add(new File([Uint8Array.from(bytes)], name));"
        "document.querySelector('.brainlib-drop').dispatchEvent("
        "  new DragEvent('drop', {dataTransfer: moved, bubbles: true, cancelable: true}));",
        [(file.name, list(file.read_bytes())) for file in files],
    )


def headline(browser, name):
    wait_for(browser, lambda: name in shown_name(browser))
    return browser.find_element("css selector", ".brainlib-study h2").text


def shown_name(browser):
    names = browser.find_elements("css selector", ".brainlib-name")
    return names[0].text if names else ""


def image_of(browser):
    return browser.find_element("css selector", ".brainlib-image").get_attribute("src")


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
