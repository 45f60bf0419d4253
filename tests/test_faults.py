"""Real faults: whatever breaks, a wrong answer never passes for a right one.

What takes long has the marker `faults`: `make faults` runs it, and CI once a day.
"""

import io
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from stand_ins import contents, draw
from test_folder import classify
from test_training import small_fit, small_model

import brainlib
from brainlib import CLASS_NAMES, imaging, inference, models, paths, training
from brainlib.data import datasets, phantom
from brainlib.models import engines, manifest
from brainlib.training import fitting

slow = pytest.mark.faults
BRAINLIB = [sys.executable, "-m", "brainlib"]


def flips(file, count):
    """Flip bits at seeded random places, one after the other; the file is whole in the end."""
    dice, content = random.Random(0), file.read_bytes()
    for _ in range(count):
        changed = bytearray(content)
        changed[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        file.write_bytes(changed)
        yield
        file.write_bytes(content)


def kill_at_random(command, seed, kills, check=lambda: None):
    """Kill a command at seeded random moments, check what it left, and let it end in the last run.

    Its last argument is a folder; one of that name with the ending `.whole` has an undisturbed run.
    """
    dice, start = random.Random(seed), time.monotonic()
    subprocess.run([*command[:-1], f"{command[-1]}.whole"], check=True, capture_output=True)
    lasts = time.monotonic() - start
    for _ in range(kills):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(dice.uniform(0.3, 1) * lasts)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        check()
    subprocess.run(command, check=True, capture_output=True)


@slow
def test_a_killed_classification_ends_with_the_tables_of_an_undisturbed_one(task, tmp_path):
    scans, output = draw(tmp_path / "scans", 2500), tmp_path / "out"
    command = [*BRAINLIB, "classify", scans, "--model", task.model, "--output", output]
    kill_at_random(command, 1, 12)
    assert contents(output) == contents(tmp_path / "out.whole")
    assert {file.name for file in output.iterdir()} == {"predictions.csv", "studies.csv"}


TRAINING = """
import sys, numpy, keras
from pathlib import Path
from brainlib import training
folder = Path(sys.argv[1])
keras.utils.set_random_seed(1)
model = keras.Sequential([
    keras.Input((16, 16, 1)), keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(8, 3),
    keras.layers.Flatten(), keras.layers.Dropout(0.5), keras.layers.Dense(4, activation="softmax"),
])
random = numpy.random.default_rng(0)
pixels = random.integers(0, 256, (4000, 16, 16, 1), dtype=numpy.uint8)
seen = training.Examples(pixels, random.integers(0, 4, len(pixels)).astype("int32"))
schedule = training.Schedule(epochs=12, seed=5)
history = training.fit(model, seen, seen.part(range(64)), schedule, folder / "checkpoint")
history.to_csv(folder / "history.csv", index=False)
numpy.save(folder / "weights.npy", numpy.concatenate([w.ravel() for w in model.get_weights()]))
"""


@slow
def test_a_killed_training_ends_with_the_weights_of_an_undisturbed_one(tmp_path):
    for name in ("out", "out.whole"):
        (tmp_path / name).mkdir()
    kill_at_random([sys.executable, "-c", TRAINING, tmp_path / "out"], 2, 8)
    for name in ("history.csv", "weights.npy"):
        killed, whole = (tmp_path / folder / name for folder in ("out", "out.whole"))
        assert killed.read_bytes() == whole.read_bytes(), name


RELEASE = """
import sys
from pathlib import Path
from brainlib import paths
from scripts.release import files
folder = Path(sys.argv[1])
files.write_files(folder)
for suffix in files.JUDGED_BY:
    with paths.atomic_write(folder / f"{files.RELEASED}{suffix}") as temporary:
        temporary.write_bytes(b"new")
files.write_manifest(folder)
"""


@slow
def test_a_killed_release_mixes_no_old_file_with_a_new_one(build_small, tmp_path):
    models.save_model(build_small(), tmp_path / "out" / "lesion_net_patient0.keras")
    suffixes = (".keras", ".onnx", ".gate.npz", ".rules.json")
    files = [tmp_path / "out" / f"lesion_net{suffix}" for suffix in suffixes]
    for file in files:
        file.write_bytes(b"old")
        os.utime(file, (1, 1))
    manifest.write_manifest(files[0], files)
    shutil.copytree(tmp_path / "out", tmp_path / "out.whole")

    def check():
        try:
            read = [manifest.read_file(file) for file in files[1:]]
        except paths.BrainlibError:
            return
        assert len({content == b"old" for content in read}) == 1

    kill_at_random([sys.executable, "-c", RELEASE, tmp_path / "out"], 3, 5, check)
    assert [manifest.read_file(file) for file in files[2:]] == [b"new"] * 2
    images = np.random.default_rng(0).integers(0, 256, (4, 70, 60, 1), np.uint8)
    killed, whole = (engines.open_onnx(tmp_path / name / "lesion_net.onnx")(images)
                     for name in ("out", "out.whole"))  # fmt: skip
    np.testing.assert_array_equal(killed["probabilities"], whole["probabilities"])


@pytest.fixture
def disk(tmp_path):
    """Mount a small disk, and give it with a function that fills all of it but some pages."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("to mount a disk needs root")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def with_more_and_more_room(disk, act, step=1):
    """Act on a disk that is full at first, until it has the room; return what came of it."""
    failures = 0
    for free in range(0, 1000, step):
        (disk / "filler").unlink(missing_ok=True)
        pages = os.statvfs(disk).f_bavail
        (disk / "filler").write_bytes(bytes(max(0, pages - free) * os.sysconf("SC_PAGE_SIZE")))
        try:
            return act(), failures
        except paths.WriteError as error:
            assert "No space left" in str(error) and "free some space" in str(error)
            failures += 1
    raise AssertionError("it never fits")


def test_a_classification_survives_a_disk_full_at_any_write(disk, task, tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "CHUNK", 8)
    scans, output = draw(tmp_path / "scans", 30), disk / "out"

    def act():
        assert not list(output.glob("*.csv"))
        return classify(scans, output, task)

    tables, failures = with_more_and_more_room(disk, act)
    assert failures > 5 and tables == classify(scans, tmp_path / "whole", task)


@slow
def test_a_training_and_a_phantom_survive_a_disk_full_at_any_write(disk, tmp_path, monkeypatch):
    (fitted, history), failures = with_more_and_more_room(disk, lambda: small_fit(disk / "state"))
    expected, whole = small_fit(tmp_path / "state")
    assert failures and history.equals(whole)
    for found, wanted in zip(fitted.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(found, wanted)
    training.forget(disk / "state")
    saved = keras.Model(fitted.inputs, fitted.outputs)
    _, failures = with_more_and_more_room(disk, lambda: models.save_model(saved, disk / "a.keras"))
    assert failures and keras.models.load_model(disk / "a.keras")
    monkeypatch.setenv("BRAINLIB_CACHE", str(disk / "cache"))
    write = partial(phantom.write_phantom, patients=4, slices=4, size=64)
    monkeypatch.setattr(phantom.collection, "write_phantom", write)
    _, failures = with_more_and_more_room(disk, phantom.open_phantom, step=8)
    write(tmp_path / "whole")
    (written,) = (disk / "cache").iterdir()
    assert failures and contents(tmp_path / "whole").items() <= contents(written).items()


@slow
@pytest.mark.parametrize("pages", [2, 60])
def test_notebooks_on_a_full_disk_end_with_one_line(disk, tmp_path, pages):
    (disk / "filler").write_bytes(bytes(2**22 - pages * os.sysconf("SC_PAGE_SIZE")))
    source = phantom.write_phantom(tmp_path / "phantom", patients=24, slices=3, size=64)
    command = [*BRAINLIB, "run", "--source", source, "--output", disk / "out", "--epochs", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "No space left" in done.stderr.splitlines()[-1]


def test_a_second_run_is_told_who_has_the_folder_and_changes_nothing(task, tmp_path):
    output, other = tmp_path / "out", draw(tmp_path / "other", 3)
    leftover = output / ".brainlib-abcd1234" / ".lock"  # of a run that was killed
    leftover.parent.mkdir(parents=True)
    leftover.touch()
    scans = draw(tmp_path / "scans", 600)
    command = [*BRAINLIB, "classify", scans, "--model", task.model, "--output", output]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not (output / ".lock").exists():
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(paths.LockedError, match=f"written by process {first.pid} on"):
            classify(other, output, task)
    finally:
        first.send_signal(signal.SIGCONT)
    assert first.wait() == 0
    assert {file.name for file in output.iterdir()} == {"predictions.csv", "studies.csv"}
    table = inference.read_slice_table(output / "predictions.csv")["path"]
    assert len(table) == 600 and table.str.startswith(str(scans)).all()


def test_what_a_killed_process_unpacked_is_deleted_by_the_next(tmp_path, monkeypatch):
    archive, temporary = tmp_path / "scans.zip", tmp_path / "temporary"
    temporary.mkdir()
    with zipfile.ZipFile(archive, "w") as whole:
        whole.write(draw(tmp_path, 1) / "00000.png")
    program = ("import sys; from brainlib import imaging; slices = imaging.open_scans(sys.argv[1])"
               "; print(next(slices).series, flush=True); sys.stdin.read()")  # fmt: skip
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    command, pipe = [sys.executable, "-c", program, archive], subprocess.PIPE
    reader = subprocess.Popen(command, stdin=pipe, stdout=pipe)
    assert reader.stdout.readline()
    for left in (1, 0):  # while that process reads, and after it was killed
        paths._clean_once.cache_clear()
        assert [each.error for each in imaging.open_scans(archive)] == [""]
        assert len(list(temporary.iterdir())) == left
        reader.kill()
        reader.communicate()


def tiff(tags):
    """Return a TIFF of these 32-bit tags; None stands for where its data would start."""
    start = 8 + 2 + 12 * len(tags) + 4
    entries = (struct.pack("<HHII", tag, 4, 1, start if value is None else value)
               for tag, value in sorted(tags.items()))  # fmt: skip
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(entries) + bytes(4)


def many_scans():
    """Return a JPEG of 3,000 scans that says to be an MPO."""
    file = io.BytesIO()
    Image.new("L", (2000, 2000), 90).save(file, "JPEG", progressive=True)
    start, end = file.getvalue()[:-2].rsplit(b"\xff\xda", 1)
    content = start + 3000 * (b"\xff\xda" + end) + b"\xff\xd9"
    entries = ((0xB000, 7, 4, 0x30303130), (0xB001, 4, 1, 2), (0xB002, 7, 32, 50))
    index = b"MPF\0II*\0\x08\0\0\0\x03\0"
    index += b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    index += struct.pack("<3I2H3I2H", 0x030000, len(content), 0, 0, 0, 0, len(content), 0, 0, 0)
    return content[:2] + b"\xff\xe2" + struct.pack(">H", len(index) + 2) + index + content[2:]


def large_tile():
    """Return a TIFF of 100 by 100 pixels in a tile of two gigabytes."""
    data = zlib.compress(bytes(10**7))
    return tiff({256: 100, 257: 100, 258: 8, 259: 8, 262: 1, 277: 1, 322: 46_000,
                          323: 46_000, 324: None, 325: len(data)}) + data  # fmt: skip


def many_pages():
    """Return a TIFF of 100,000 pages."""
    page = tiff({256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 8, 279: 64})[8:-4]
    pages = (page + struct.pack("<I", 8 + (len(page) + 4) * n) for n in range(1, 100_001))
    return b"II*\0" + struct.pack("<I", 8) + b"".join(pages) + page + bytes(4)


def peak_memory():
    """Return the most memory that this process has held, in kB."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


@pytest.mark.parametrize("make", [many_scans, large_tile, many_pages])
def test_a_file_made_to_last_or_to_fill_the_memory_is_refused_in_seconds(tmp_path, make):
    file = tmp_path / "hostile.jpg"
    file.write_bytes(make())
    Path("/proc/self/clear_refs").write_text("5")  # the peak of earlier tests does not count
    start, before = time.monotonic(), peak_memory()
    (slice_,) = imaging.open_scans(file)
    assert re.search("scans|pixels|pages", slice_.error)
    assert time.monotonic() - start < 5 and peak_memory() - before < 500_000


NAMES = (
    "=cmd|x.png", "+1.png", "-1.png", "@a.png", "'=a.png", "a$\\frac{_$.png", "\x1b[31mred.png",
    "<img src=x onerror=alert(1)>.png", "[a](b) *c* `d`.png", 'quo"te,.png', "new\nline.png",
    "re\rturn.png", "grün 脳.png", "\uff1d1.png", "\n=1.png", os.fsdecode(b"latin-\xfc.png"),
)  # fmt: skip


def test_names_are_data_on_the_terminal_in_tables_and_in_reports(task, tmp_path):
    scans, output = draw(tmp_path / "scans", 0), tmp_path / "out"
    for name in NAMES:
        Image.new("L", (8, 8), 90).save(scans / name)
    home = ["env", "-u", "ORT_DISABLE_TELEMETRY", f"HOME={tmp_path / 'home'}"]
    command = [*home, *BRAINLIB, "classify", scans, "--model", task.model, "--output", output]
    done = subprocess.run([*command, "--reports"], capture_output=True, check=True)
    assert not (tmp_path / "home").exists()  # ONNX Runtime would keep what it reports there
    *lines, _ = done.stdout.decode().splitlines()  # the last one names the files
    assert len(lines) == len(NAMES)
    assert all(line.isprintable() and "unjudged" in line for line in lines)
    cells = pd.read_csv(output / "studies.csv", encoding_errors="surrogateescape")["series"]
    assert not cells.str.startswith(("=", "+", "-", "@", "\uff1d", "\n")).any()
    assert set(inference.read_study_table(output / "studies.csv")["series"]) > set(NAMES[:-1])
    slices = inference.read_slice_table(output / "predictions.csv")["path"]
    assert set(slices) == {str(scans / name) for name in NAMES}
    pages = list((output / "reports").glob("*.html"))
    assert len(pages) == len(NAMES) + 1
    for page in pages:
        text = page.read_text("utf-8")
        assert "unjudged" in text.lower()
        tags = re.findall(r"<[a-z][^>]*>", text)
        assert not [tag for tag in tags if re.search(r"\son\w+=", tag)], page
        assert all("data:image/" in tag for tag in tags if tag.startswith("<img")), page


@slow
def test_too_little_memory_ends_with_one_line_or_the_right_tables(tmp_path):
    scans = phantom.write_phantom(tmp_path / "phantom", patients=8, slices=4) / "Training"
    Image.new("L", (6300, 6300), 90).save(scans / "large.png")

    def run(megabytes):
        output = tmp_path / f"out{megabytes}"
        limited = ["/bin/sh", "-c", f'ulimit -v {megabytes * 1024}; exec "$@"', "sh", *BRAINLIB]
        command = [*limited, "classify", scans, "--output", output]
        one_thread = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=one_thread)
        return done, contents(output) if output.exists() else {}

    done, whole = run(10_000)
    assert done.returncode == 0 and len(whole) == 2
    for megabytes in (300, 450, 600, 750, 900, 1200, 1800):
        done, tables = run(megabytes)
        assert "Traceback" not in done.stderr
        if done.returncode == 3:
            assert "large.png: unreadable" in done.stdout
        elif done.returncode:  # OpenBLAS and glibc end a process by themselves, with their own line
            assert "predictions.csv" not in map(str, tables)
            assert re.search("memory|alloc", done.stderr.splitlines()[-1])
        else:
            assert tables == whole


def test_flipped_bits_in_the_cache_of_pixels_change_no_pixel(tmp_path):
    folder = tmp_path / "images"
    for number, name in enumerate(CLASS_NAMES):
        draw(folder / name, number + 1)
    collection = datasets.open_folder(folder)
    expected = imaging.load_images(collection, 8)
    (cache,) = paths.cache_folder().glob("pixels-8-*.npz")
    for _ in flips(cache, 100):
        np.testing.assert_array_equal(imaging.load_images(collection, 8).pixels, expected.pixels)


def test_a_flipped_bit_in_a_cached_collection_has_it_made_again(tmp_path):
    def write(folder):
        draw(folder / "glioma", 3)
        images = "path,patient\n" + "".join(f"glioma/0000{n}.png,{n}\n" for n in range(3))
        (folder / "images.csv").write_text(images, encoding="utf-8")

    root = datasets.open_cached(tmp_path / "cached", write).root
    expected = contents(root)
    for name in expected:
        for _ in flips(root / name, 10):
            datasets.open_cached(root, write)
            assert contents(root) == expected
        (root / name).unlink()
        datasets.open_cached(root, write)
        assert contents(root) == expected and list(root.parent.iterdir()) == [root]


def test_a_flipped_bit_in_the_state_of_a_fit_has_it_begin_anew(tmp_path, caplog):
    trained, _ = small_fit(tmp_path)
    weights, learner = trained.get_weights(), small_model()
    learner.compile("adam")
    identity = str(np.load(tmp_path / "state.npz")["arr_0"])
    kept = 0
    for _ in flips(tmp_path / "state.npz", 300):
        begun = fitting.State(tmp_path, identity).restore(learner)
        kept += begun == 2
        for found, wanted in zip(learner.get_weights(), weights, strict=True):
            assert begun == 0 or np.array_equal(found, wanted)
    assert "damaged" in caplog.text and kept < 150


@pytest.mark.parametrize("suffix", [".onnx", ".keras", ".gate.npz", ".rules.json"])
def test_a_released_file_that_is_changed_or_missing_ends_every_command(tmp_path, suffix):
    for file in (paths.project_root() / "model").glob("lesion_net.*"):
        shutil.copy(file, tmp_path)
    file, engine = tmp_path / f"lesion_net{suffix}", suffix[1:] if suffix == ".keras" else "onnx"
    for _ in flips(file, 3):
        with pytest.raises(paths.BrainlibError, match=r"lesion_net\..*fetch the released files"):
            inference.open_classifier(tmp_path / "lesion_net.keras", engine)
    if suffix == ".onnx":
        return  # where it is missing, Keras runs the model
    file.unlink()
    scans = draw(tmp_path / "scans", 1)
    command = [*BRAINLIB, "classify", scans, "--model", tmp_path / "lesion_net.keras"]
    done = subprocess.run([*command, "--engine", engine], capture_output=True, text=True)
    assert done.returncode == 2 and not done.stdout
    assert f"lesion_net{suffix} is missing" in done.stderr.splitlines()[-1]


def test_files_of_another_model_are_refused(task, heads, tmp_path):
    (tmp_path / "own").mkdir()
    for file in paths.released_model().parent.glob("lesion_net.*"):
        shutil.copy(file, tmp_path)
        if ".release" not in file.suffixes:
            shutil.copy(file, tmp_path / "own" / file.name.replace("lesion_net", "own"))
    released, own = tmp_path / "lesion_net.onnx", tmp_path / "own" / "own.onnx"
    load, opened = brainlib.load, brainlib.load(own).classifier
    assert "unjudged" not in str(load(own)(heads[0].pixels))
    assert inference.model_sha256(opened) == paths.file_hash(own)
    for name, message in (("own.v2", "own.v2 is no model"), ("own", "own is no model")):
        with pytest.raises(paths.BrainlibError, match=message):
            load(own.with_name(name))
    own.with_suffix(".keras").write_bytes(b"trained anew")
    with pytest.raises(paths.BrainlibError, match=r"own\.rules\.json belongs to another model"):
        load(own)
    rules = json.loads(own.with_suffix(".rules.json").read_text("utf-8"))
    own.with_suffix(".rules.json").write_text(json.dumps(rules | {"model_sha256": ""}), "utf-8")
    load(own)  # rules of a model that was never released
    own.with_suffix(".rules.json").unlink()
    for file in (own, released):
        file.unlink()
        file.symlink_to(task.model.with_suffix(".onnx"))
    assert inference.model_sha256(opened) == ""  # another file lies where it was
    with pytest.raises(paths.BrainlibError, match="the gate beside the model belongs to another"):
        load(own.with_suffix(".keras"))(heads[0].pixels)
    with pytest.raises(paths.BrainlibError, match=r"lesion_net\.onnx is not the released file"):
        load(released.with_suffix(".keras"))


def test_unlisted_files_and_a_damaged_manifest_are_refused_and_ones_own_files_pass(tmp_path):
    model, own = tmp_path / "my.net.keras", tmp_path / "own.onnx"
    for file in (model, own):
        file.write_bytes(b"mine")
    listing = manifest.write_manifest(model, [model])
    assert manifest.read_file(own) == manifest.read_file(model) == b"mine"
    assert manifest.read_file(own.with_suffix(".gate.npz")) is None
    with pytest.raises(paths.BrainlibError, match="not listed"):
        manifest.check_file(model.with_suffix(".rules.json"), b"")
    for damaged in (b"", b"[]", b'{"files": 3}', b"{", b"\xff"):
        listing.write_bytes(damaged)
        with pytest.raises(paths.BrainlibError, match="cannot be read as a release manifest"):
            manifest.read_file(model)
