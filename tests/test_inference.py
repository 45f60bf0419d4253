"""Answers: a row for each slice, in order, whatever its size, and one call for any scan."""

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from stand_ins import BAND, draw, grey_of

import brainlib
from brainlib import CLASS_NAMES, evaluation, imaging, inference, paths
from brainlib.data import splits
from brainlib.models import engines
from brainlib.notebook import lessons, runs
from brainlib.report import answers

CLASSES = list(CLASS_NAMES)
"""Grey values that the model by brightness gives to each class."""


def by_brightness(pixels):
    """Stand in for a network: sure of class 0 below grey 64, of class 1 below 128, and so on."""
    number = pixels.mean(axis=(1, 2, 3)) // BAND
    return np.eye(4, dtype=np.float32)[number.astype(int)] * 0.97 + 0.0075


def engine(predict=by_brightness):
    return engines.Engine(
        lambda pixels: {"probabilities": predict(pixels), "features": pixels[:, 0, 0]},
        ("probabilities", "features"),
    )


def classifier(predict=by_brightness, **parts):
    return inference.Classifier(engine(predict), Path("model.keras"), "keras", **parts)


def flat(number, size=(8, 8)):
    return np.full(size, grey_of(number), np.uint8)


def a_slice(number, pixels=None, series="a", **others):
    return imaging.ScanSlice(Path("a.nii"), series, number, pixels=pixels, **others)


@pytest.fixture
def dark_is_refused(monkeypatch):
    gate = inference.classifier.gate
    monkeypatch.setattr(gate, "refuse_plainly", lambda pixels: "")
    refuse = lambda _, rows: ["it looks like a CT" if grey < 9 else "" for grey in rows]  # noqa: E731
    monkeypatch.setattr(gate, "refuse", refuse)


def test_a_strip_cut_from_a_slab_says_how_to_get_the_slices_as_scanned():
    shapes = {(384, 48): "sagittal", (90, 30): "sagittal", (48, 384): "", (90, 90): "axial"}
    strips = [a_slice(0, flat(1, shape), plane=plane) for shape, plane in shapes.items()]
    said = inference.classify(classifier(gate="a gate"), strips)["decision"]
    assert ["--plane acquired" in decision for decision in said] == [True, True, False, False]


def test_answers_keep_the_order_of_the_images_and_large_chunks_are_short():
    batches = []

    def predict(batch):
        batches.append(batch.shape)
        return by_brightness(batch)

    sizes = [(8, 8)] * 70 + [(8, 8), (8, 9)] * 3 + [(9, 8)] * 2
    slices = [a_slice(number, flat(number, size)) for number, size in enumerate(sizes)]
    table = inference.classify(classifier(predict), slices)
    assert table["class"].tolist() == [CLASSES[number % 4] for number in range(len(sizes))]
    assert table["slice"].tolist() == list(range(1, len(sizes) + 1))
    assert sum(shape[0] for shape in batches) == len(sizes) and len(batches) <= 6
    batches.clear()
    large = (a_slice(number, np.zeros((3000, 3000), np.uint8)) for number in range(3))
    inference.classify(classifier(predict), large)
    assert [shape[0] for shape in batches] == [1, 1, 1]
    assert inference.predict_images(engine(predict), []).shape == (0, 4)
    assert len(inference.classify(classifier(predict), [])) == 0


def test_an_image_cut_short_has_its_reason_and_the_others_their_answers(tmp_path):
    files = sorted(draw(tmp_path, 6).iterdir())
    files[2].write_bytes(files[2].read_bytes()[:50])
    files[5].write_text("no image", encoding="utf-8")
    opened = (slice_ for file in files for slice_ in imaging.open_scans(file))
    table = inference.classify(classifier(), opened)
    assert table.columns.tolist() == list(inference.COLUMNS)
    assert table["path"].tolist() == [str(file) for file in files]
    good, bad = table.loc[[0, 1, 3, 4]], table.loc[[2, 5]]
    assert good["class"].tolist() == [CLASSES[number % 4] for number in good.index]
    assert (good["error"] == "").all()
    assert bad[CLASSES].isna().all().all() and (bad["error"] != "").all()
    assert (bad[["class", "set", "decision"]] == "").all().all()


def test_predictions_of_a_fold_are_a_prediction_table(tmp_path):
    draw(tmp_path, [f"{name}/{number}.png" for number in range(5) for name in CLASS_NAMES])
    table = runs.open_collection(str(tmp_path)).table
    tested = splits.subset(table, splits.make_split(table, "patient", fold=3), "test")
    predictions = inference.predict_table(engine(), tested, tmp_path, fold=3)
    evaluation.check_predictions(predictions)
    assert predictions["path"].tolist() == tested["path"].tolist()
    assert (predictions["fold"] == 3).all() and not predictions["twin_in_training"].any()
    np.testing.assert_array_equal(predictions[CLASSES].idxmax(axis="columns"), predictions["label"])


def test_thresholds_and_the_modality_that_a_file_states_count(tmp_path, monkeypatch):
    monkeypatch.setattr(inference.classifier.gate, "refuse", lambda _, rows: [""] * len(rows))
    thresholds = {"glioma": 0.995, "meningioma": 1.0, "notumor": 0.0, "pituitary": 0.0}
    judge = classifier(rules={"conformal": {"coverage": 0.9, "thresholds": thresholds}})
    sets = inference.classify(judge, [a_slice(0, flat(0)), a_slice(1, flat(1))])["set"]
    assert sets.tolist() == ["glioma meningioma"] * 2
    judge = classifier(gate="any")
    header = pydicom.dcmread(get_testdata_file("MR_small.dcm"))
    refused = "refused: its file says that it is a CT, not an MRI"
    for modality, decision in (("CT", refused), ("", "accepted")):
        header.Modality = modality
        header.save_as(tmp_path / "slice.dcm")
        row = inference.classify(judge, imaging.open_scans(tmp_path / "slice.dcm")).iloc[0]
        assert row["decision"] == decision and bool(row["class"]) == (decision == "accepted")


DARK, HEALTHY, TUMOR = np.zeros((8, 8), np.uint8), flat(2), flat(0)


@pytest.mark.parametrize(
    ("slices", "label", "decision"),
    [
        ([HEALTHY] * 3, "notumor", "accepted"),
        ([DARK, HEALTHY, HEALTHY, DARK], "notumor", "accepted"),
        ([HEALTHY, DARK, HEALTHY], "", "incomplete: 1 slice inside the brain was not classified"),
        ([HEALTHY, None, DARK, HEALTHY], "",
         "incomplete: 2 slices inside the brain were not classified"),
        ([HEALTHY, HEALTHY, None], "", "incomplete: 1 slice inside the brain was not classified"),
        ([TUMOR, DARK, TUMOR], "glioma", "accepted"),
        ([DARK, DARK], "", "refused: it looks like a CT"),
        ([None], "", "unreadable: it is broken"),
        (["a.dcm: skipped: it is a localizer"], "", "refused: it is a localizer"),
        ([HEALTHY, HEALTHY, "a.dcm: missing: 3 mm", HEALTHY], "",
         "incomplete: 1 slice inside the brain was not classified"),
    ],
)  # fmt: skip
def test_a_study_with_gaps_is_no_study_without_tumour(dark_is_refused, slices, label, decision):
    read = [
        a_slice(number, one)
        if isinstance(one, np.ndarray)
        else a_slice(number, error=one or "it is broken")
        for number, one in enumerate(slices)
    ]
    rules = {"conformal": {"thresholds": dict.fromkeys(CLASSES, 0.5)},
             "study": inference.studies.UNFITTED}  # fmt: skip
    judge = classifier(gate="any", rules=rules)
    table = inference.classify(judge, read)
    study = inference.summarise(judge, table).iloc[0]
    assert (study["class"], study["decision"]) == (label, decision)
    assert not (study["accepted"] and table["decision"].str.contains("a CT").any())
    assert study[CLASSES].isna().all() == (label == "")
    assert study["unreadable"] == sum(one is None for one in slices)
    rules["study"] = {**rules["study"], "thresholds": dict.fromkeys(CLASSES, 0.0)}  # an empty set
    unsure = inference.summarise(judge, table).iloc[0]
    expected = "undecided" if decision == "accepted" else decision
    assert (unsure["class"], unsure["decision"]) == (label, expected)


def test_the_released_model_without_its_manifest_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "released_model", lambda: tmp_path / "lesion_net.keras")
    for open_released in (inference.open_classifier, brainlib.load):
        with pytest.raises(paths.BrainlibError, match="fetch the released files again"):
            open_released()


def test_the_scans_of_a_run_are_those_named_or_some_of_the_test_images(tmp_path):
    mine = draw(tmp_path / "mine", 2)
    named = runs.start("04_infer", {"scans": str(mine), "source": "no/such/folder"})
    assert [one.file for one in lessons.choose_scans(named)] == sorted(mine.iterdir())
    draw(tmp_path / "data", [f"Testing/{name}/1.png" for name in CLASS_NAMES])
    scans = lessons.choose_scans(runs.start("04_infer", {"source": str(tmp_path / "data")}))
    assert len({scan.series for scan in scans}) == len(scans) == 4, "of one name, yet four studies"


@pytest.fixture(scope="module")
def model():
    return brainlib.load()


def test_one_call_answers_a_scan_in_any_form_and_says_what_is_none(model, heads, tmp_path):
    file, head = tmp_path / "head.png", heads[0].pixels
    Image.fromarray(head).save(file)
    expected = model(file).to_dict()
    forms = [
        str(file), file.read_bytes(), io.BytesIO(file.read_bytes()), Image.open(file), head,
        np.stack([head] * 3, axis=-1), head[np.newaxis], head[np.newaxis, ..., np.newaxis],
        tmp_path,
    ]  # fmt: skip
    for form in forms:
        found = model(form).to_dict()
        assert found["decision"] == expected["decision"] and found["class"] == expected["class"]
        assert found["probabilities"] == expected["probabilities"]
    both = model([file, head])
    assert len(both) == 2 and len(repr(both).splitlines()) == 2
    assert both.to_frame()["decision"].tolist() == [expected["decision"]] * 2
    assert both.to_dict()[0] == expected and both[0].to_frame().equals(both.to_frame()[:1])
    assert [one["series"] for one in model([head, head]).to_dict()] == ["array 1", "array 2"]
    assert [one.name for one in model([file.read_bytes()] * 2)] == ["scan 1", "scan 2"]
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        for inside in ("one/a.png", "two/a.png"):
            archive.write(file, inside)
    for number, answer in zip(("one", "two"), model(tmp_path / "p.zip"), strict=True):
        assert answer.to_dict()["path"] == f"{tmp_path}/p.zip/{number}/a.png"
        assert f"(p.zip/{number}/a.png: " in repr(answer)
    wrong = (7, np.zeros(5), np.array(["x"]))
    for form in wrong:
        with pytest.raises(paths.BrainlibError, match="is no scan"):
            model(form)
    names = ["int 1", "array 2", "array 3", "absent.png", "scan 5", "head.png"]
    found = model([*wrong, "absent.png", b"junk", file])
    assert [one.name for one in found] == names and found[5].to_dict() == expected
    assert all(one.decision.startswith("unreadable") and one.label is None for one in found[:5])
    with pytest.raises(paths.BrainlibError, match="no plane 'y'; choose acquired"):
        brainlib.load(plane="y")
    answer = model(b"junk")
    assert "brainlib-scans-" not in repr(answer) + str(answer.to_dict())


def test_the_slices_of_an_array_or_a_volume_are_one_study(tmp_path):
    model = answers.Model(classifier(), "axial")
    volume = np.stack([flat(0, (20, 20))] * 4)
    volume[2] += BAND
    for answer in (model(volume), model(volume.astype(float))):
        assert answer.study["slices"] == 4 and answer.label == "glioma"
    volume[:, 0, 0] = 0
    nibabel.save(nibabel.Nifti1Image(volume.T, np.eye(4)), tmp_path / "a.nii.gz")
    answer = model(tmp_path / "a.nii.gz")
    assert sorted(answer.images) == [1, 2, 3, 4] and answer.name == "a.nii.gz"
    assert answer.show(2).size == (560, 560)
    assert answer.decision.startswith("unjudged") and "unjudged" in str(answer)  # without a gate
    assert "<b>Unjudged.</b>" in answer.report(tmp_path / "a.html").read_text(encoding="utf-8")
    with pytest.raises(paths.BrainlibError, match="no slice 9"):
        answer.show(9)
    place = draw(tmp_path, ["a/1.png", "b/1.png"])
    found = answers.Model(classifier())([place / "a" / "1.png", place / "b" / "1.png"])
    assert [one.label for one in found] == ["glioma", "meningioma"], "of one name, yet two studies"


def test_the_door_opens_quickly_and_without_tensorflow(heads, tmp_path):
    Image.fromarray(heads[0].pixels).save(tmp_path / "head.png")
    program = (
        "import sys, time\nstart = time.process_time()\nimport brainlib\n"
        "assert time.process_time() - start < 0.5\n"
        "assert not {'numpy', 'pandas'} & set(sys.modules)\n"
        "brainlib.load()(sys.argv[1]).show()\n"
        "heavy = {'tensorflow', 'keras', 'sklearn', 'matplotlib', 'distributed', 'IPython'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path / "head.png"], check=True, cwd=tmp_path)


@pytest.mark.parametrize(
    ("package", "call", "extra"),
    [
        ("keras", "brainlib.load(engine='keras')", "train"),
        ("scipy", "import brainlib.data.phantom", "notebooks"),
        ("nilearn", "from brainlib.data import sources; sources.open_collection('phantom')",
         "notebooks"),
        ("voila", "from brainlib.report.app import server; server.serve()", "app"),
        ("papermill", "sys.argv[1:] = ['run']; from brainlib import cli; cli.main()", "notebooks"),
    ],
)  # fmt: skip
def test_a_package_that_is_not_installed_is_named_with_its_extra(package, call, extra, tmp_path):
    program = f"import sys; sys.modules[{package!r}] = None; import brainlib; {call}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                          env={**os.environ, "BRAINLIB_CACHE": str(tmp_path)})  # fmt: skip
    # never by its name alone, which on PyPI is another's
    said = f"this needs the package {package}: pip install '.[{extra}]' in the project folder, or "
    assert said in done.stderr.splitlines()[-1]
