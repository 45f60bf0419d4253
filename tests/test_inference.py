"""Answers: a row for each picture, in order, whatever its size, and bad ones say what is wrong."""

from pathlib import Path

import keras
import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from brainlib import CLASS_NAMES, evaluation, imaging, inference, models, report
from brainlib.data import phantom, splits
from brainlib.notebook import choosing, runs

CLASSES = list(CLASS_NAMES)
BAND = 64
"""Grey values that the model by brightness gives to each class."""


@pytest.fixture(scope="module")
def by_brightness():
    """Build a model that is sure of class 0 below grey 64, of class 1 below 128, and so on."""
    pixels = keras.Input((None, None, 1))
    mean = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / BAND)(pixels))
    model = keras.Model(pixels, keras.layers.Dense(4, activation="softmax")(mean))
    steps = np.arange(4)
    model.layers[-1].set_weights([50.0 * steps[np.newaxis], -25.0 * steps * (steps + 1)])
    return model


@pytest.fixture(scope="module")
def network():
    return models.build_model("seed_cnn")


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom") / "small"
    return phantom.write_phantom(folder, patients=4, slices=4, size=64)


def classifier(model, **rules_and_gate):
    return inference.Classifier(
        model.predict_on_batch, Path("model.keras"), "keras", **rules_and_gate
    )


def opened(files):
    return (one for file in files for one in imaging.open_scans(file))


def flat(number, size=(8, 8)):
    return np.full(size, number % 4 * BAND + BAND // 2, np.uint8)


def draw(folder, names):
    """Write one picture of each class after the other, and return their paths."""
    files = [folder / name for name in names]
    for number, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(flat(number, (8 + number, 9))).save(file)
    return files


def test_answers_keep_the_order_of_the_pictures(by_brightness):
    batches = []

    def answer(batch):
        batches.append(len(batch))
        return by_brightness.predict_on_batch(batch)

    sizes = [(8, 8)] * 130 + [(8, 8), (8, 9)] * 3 + [(9, 8)] * 2
    pictures = (flat(number, size) for number, size in enumerate(sizes))
    probabilities = inference.predict_pictures(answer, pictures)
    assert probabilities.shape == (len(sizes), 4) and probabilities.dtype == np.float32
    np.testing.assert_array_equal(probabilities.argmax(axis=1), np.arange(len(sizes)) % 4)
    assert sum(batches) == len(sizes) and batches[:3] == [64, 64, 3] and batches[-1] == 2


def test_no_picture_gives_no_row(by_brightness):
    assert inference.predict_pictures(by_brightness, []).shape == (0, 4)


def test_a_picture_cut_short_has_its_reason_and_the_others_their_answers(by_brightness, tmp_path):
    files = draw(tmp_path, [f"{number}.png" for number in range(6)])
    files[2].write_bytes(files[2].read_bytes()[:50])
    files[5].write_text("no picture", encoding="utf-8")
    table = inference.classify(classifier(by_brightness), opened(files))
    assert table.columns.tolist() == list(inference.COLUMNS)
    assert table["path"].tolist() == [str(file) for file in files]
    good = [0, 1, 3, 4]
    assert table.loc[good, "class"].tolist() == [CLASSES[number % 4] for number in good]
    assert (table.loc[good, "error"] == "").all()
    np.testing.assert_allclose(table.loc[good, CLASSES].sum(axis="columns"), 1, rtol=1e-6)
    bad = table.loc[[2, 5]]
    assert bad[CLASSES].isna().all().all()
    assert (bad[["class", "set", "decision"]] == "").all().all()
    for file, error in zip([files[2], files[5]], bad["error"], strict=True):
        assert f"{file}: cannot be read as a picture" in error


def test_pictures_that_all_fail_are_all_named(by_brightness, tmp_path):
    files = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    for file in files:
        file.write_bytes(b"")
    table = inference.classify(classifier(by_brightness), opened(files))
    assert (table["class"] == "").all() and (table["error"] != "").all()
    assert table.columns.tolist() == list(inference.COLUMNS)


def test_grey_rgb_and_alpha_are_one_picture_and_any_size_is_answered(network, collection, tmp_path):
    source = next((collection / "Training" / "glioma").iterdir())
    with Image.open(source) as picture:
        for mode in ("L", "RGB", "RGBA"):
            picture.convert("L").convert(mode).save(tmp_path / f"{mode}.png")
        picture.resize((301, 97)).save(tmp_path / "wide.bmp")
        picture.resize((1, 1)).save(tmp_path / "tiny.tif")
    table = inference.classify(classifier(network), imaging.open_scans(tmp_path)).set_index("path")
    table.index = table.index.str.rsplit("/").str[-1]
    np.testing.assert_allclose(table[CLASSES].sum(axis="columns"), 1, rtol=1e-5)
    assert len(table) == 5 and (table["error"] == "").all()
    for name in ("RGB.png", "RGBA.png"):
        np.testing.assert_allclose(
            table.loc[name, CLASSES].astype(float), table.loc["L.png", CLASSES].astype(float),
            rtol=1e-5,
        )  # fmt: skip


def test_a_picture_that_is_named_is_taken_whatever_it_is_called(by_brightness, tmp_path):
    file = draw(tmp_path, ["scan.png"])[0].rename(tmp_path / "scan")
    table = inference.classify(classifier(by_brightness), imaging.open_scans(file))
    assert table["class"].tolist() == [CLASSES[0]]


def test_the_slices_of_a_volume_are_rows_of_one_series(by_brightness, tmp_path):
    volume = np.stack([np.full((20, 20), 30 + 10 * number) for number in range(4)], axis=-1)
    volume[0, 0, :] = 0
    nibabel.save(nibabel.Nifti1Image(volume.astype(np.uint8), np.eye(4)), tmp_path / "head.nii.gz")
    table = inference.classify(classifier(by_brightness), imaging.open_scans(tmp_path, "axial"))
    assert table["slice"].tolist() == [0, 1, 2, 3] and (table["plane"] == "axial").all()
    assert table["series"].unique().tolist() == ["head.nii.gz"]
    assert (table["class"] != "").all() and (table["error"] == "").all()
    shown = choosing.readable(imaging.list_scans(tmp_path, "axial"), 2, "axial")
    assert [one.number for one in shown] == [0, 1]


def test_the_pictures_of_a_run_are_those_named_or_some_of_the_test_pictures(collection, tmp_path):
    files = draw(tmp_path, ["1.png", "2.png"])
    named = runs.start("04_infer", {"pictures": str(tmp_path), "source": "no/such/folder"})
    assert [one.file for one in choosing.choose_scans(named)] == files
    variables = {"source": str(collection), "seed": 1}
    chosen, again = (
        [one.file for one in choosing.choose_scans(runs.start("04_infer", variables), count=3)]
        for _ in range(2)
    )
    assert chosen == again and len(set(chosen)) == 3
    assert all(path.is_file() and path.is_relative_to(collection / "Testing") for path in chosen)


def test_predictions_of_a_fold_are_a_prediction_table(by_brightness, tmp_path):
    names = [f"{name}/{number}.png" for number in range(5) for name in CLASS_NAMES]
    draw(tmp_path, names)
    table = runs.open_collection(str(tmp_path)).table
    split = splits.make_split(table, "patient", fold=3)
    tested = splits.subset(table, split, "test")
    predictions = inference.predict_table(by_brightness, tested, tmp_path, fold=3)
    evaluation.check_predictions(predictions)
    assert predictions["path"].tolist() == tested["path"].tolist()
    assert (predictions["fold"] == 3).all() and not predictions["twin_in_training"].any()
    np.testing.assert_array_equal(predictions[CLASSES].idxmax(axis="columns"), predictions["label"])
    predictions.to_csv(tmp_path / "table.csv", index=False)
    pd.testing.assert_frame_equal(
        evaluation.read_predictions(tmp_path / "table.csv")[CLASSES], predictions[CLASSES]
    )


def test_answers_are_the_same_in_any_company(by_brightness, tmp_path):
    names = [f"{number:03}.png" for number in range(150)]
    files = draw(tmp_path, names)
    together = inference.classify(classifier(by_brightness), opened(files))
    alone = [
        inference.classify(classifier(by_brightness), opened([file]))["class"].item()
        for file in files[::29]
    ]
    assert together["class"].tolist() == [CLASSES[number % 4] for number in range(150)]
    assert together["class"].tolist()[::29] == alone


def test_without_a_gate_an_answer_says_that_nobody_judged_it(by_brightness, tmp_path):
    table = inference.classify(classifier(by_brightness), opened(draw(tmp_path, ["a.png"])))
    assert table["decision"].tolist() == [inference.UNJUDGED] and table["set"].tolist() == [""]


def test_a_set_holds_every_class_within_its_threshold(by_brightness, tmp_path):
    thresholds = {"glioma": 0.9, "meningioma": 1.0, "notumor": 0.0, "pituitary": 0.0}
    rules = {"conformal": {"coverage": 0.9, "thresholds": thresholds}}
    files = draw(tmp_path, ["a.png", "b.png"])
    table = inference.classify(classifier(by_brightness, rules=rules), opened(files))
    assert table["set"].tolist() == ["glioma meningioma", "meningioma"]


def test_a_slice_that_is_refused_has_a_reason_and_no_answer(by_brightness, tmp_path, monkeypatch):
    def refuse(_, pixels):
        return "it is too bright" if pixels.mean() > 128 else ""

    monkeypatch.setattr(inference.classifier.gate, "refuse", refuse)
    files = draw(tmp_path, [f"{number}.png" for number in range(4)])
    table = inference.classify(classifier(by_brightness, gate="any"), opened(files))
    refused = "refused: it is too bright"
    assert table["decision"].tolist() == ["accepted", "accepted", refused, refused]
    assert table["class"].tolist() == ["glioma", "meningioma", "", ""]
    assert table.loc[2:, CLASSES].isna().all().all() and (table.loc[2:, "error"] == "").all()


@pytest.fixture(scope="module")
def released():
    return inference.open_classifier("model/brain_tumor.keras")


def test_a_report_is_written_for_as_many_studies_as_are_asked_for(released, collection, tmp_path):
    folder = tmp_path / "a folder"
    for name in ("glioma", "notumor"):
        source = next((collection / "Training" / name).iterdir())
        folder.mkdir(exist_ok=True)
        with Image.open(source) as picture:
            picture.resize((160, 160)).save(folder / f"<{name}>.png")
    Image.new("L", (90, 90)).save(folder / "blank.png")
    scans = imaging.list_scans(folder)
    task = inference.Task(released.model)
    written = inference.classify_scans(scans, tmp_path, task)
    predictions = inference.read_predictions(written[0])
    studies = inference.read_studies(written[1])
    assert predictions["decision"].str.startswith("refused: it is blank").sum() == 1
    for most in (2, 9):
        reports = report.write_reports(
            released, scans, predictions, studies, tmp_path / "reports", most
        )
        assert len(reports) == min(most, 3)
    pages = [path.read_text(encoding="utf-8") for path in reports]
    assert "&lt;glioma&gt;.png" in pages[0] and "<glioma>" not in pages[0]
    assert all("not a medical device" in page for page in pages)


def test_a_model_without_gate_and_rules_has_no_report(by_brightness, tmp_path):
    with pytest.raises(report.ReportError, match="no gate or no rules"):
        report.write_reports(
            classifier(by_brightness), [], pd.DataFrame(), pd.DataFrame(), tmp_path
        )


def test_pictures_of_one_name_in_two_folders_are_two_studies(tmp_path):
    draw(tmp_path, [f"Testing/{name}/1.png" for name in CLASS_NAMES])
    scans = choosing.choose_scans(runs.start("04_infer", {"source": str(tmp_path)}))
    assert len({scan.series for scan in scans}) == len(scans) == 4
    slices = choosing.readable(scans, 4)
    assert [one.series for one in slices] == [scan.series for scan in scans]


def test_large_pictures_are_held_in_small_numbers():
    large = [
        imaging.ScanSlice(Path(str(n)), pixels=np.zeros((3000, 3000), np.uint8)) for n in range(5)
    ]
    sizes = [len(batch) for batch in inference.classifier.in_batches(large)]
    assert sizes == [2, 2, 1]


@pytest.mark.parametrize(
    ("modality", "decision"),
    [
        ("CT", "refused: its file says that it is a CT, not an MRI"),
        ("MR", "accepted"),
        ("", "accepted"),
    ],
)
def test_what_a_file_says_it_was_taken_with_counts(
    by_brightness, tmp_path, monkeypatch, modality, decision
):
    monkeypatch.setattr(inference.classifier.gate, "refuse", lambda *_: "")
    header = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    header.Modality = modality
    header.save_as(tmp_path / "slice.dcm")
    table = inference.classify(
        classifier(by_brightness, gate="any"), imaging.open_scans(tmp_path / "slice.dcm")
    )
    assert table["decision"].tolist() == [decision]
    assert bool(table["class"].item()) == (decision == "accepted")
