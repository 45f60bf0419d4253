"""The synthetic collection on disk: folders, copies, odd files and `images.csv`."""

import itertools
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from brainlib import CLASS_NAMES, paths
from brainlib.data.datasets import Collection, open_cached, trace_outline
from brainlib.data.phantom.anatomy import grow_anatomy, simulate_patient

PHANTOM_VERSION = "2"
"""Changes whenever the pixels of a seed do."""


def open_phantom(seed: int = 0) -> Collection:
    """Open the synthetic collection of a seed, written into the cache folder the first time."""
    root = paths.cache_folder() / f"phantom-v{PHANTOM_VERSION}-seed{seed}"
    collection = open_cached(root, lambda folder: write_phantom(folder, seed=seed))
    return replace(collection, name="phantom", version=PHANTOM_VERSION)


def write_phantom(
    folder: Path | str, patients: int = 200, slices: int = 6, size: int = 224, seed: int = 0
) -> Path:
    """Write a synthetic collection with the layout and the leaks of the Kaggle collection.

    `<folder>/{Training,Testing}/<class>/` holds grey JPEG images; `images.csv` gives for each its
    `path` (relative to the folder), `patient`, `source` (`phantom`), `source_image` (equal for all
    images of one slice), `mirrored` (0 or 1), `plane`, and `outline`: a JSON list of [x, y], in
    pixels of that image, empty without a lesion. By design, one slice in ten exists twice and one
    in ten also as its mirror image, every other one across the splits; the split is drawn by
    image, so most patients are on both sides; and two images of Training/notumor are PNG files
    named `.jpg`, one with an alpha channel and one with a palette.

    Parameters
    ----------
    folder : Path or str
        Target; must be absent or empty.
    patients : int
        A multiple of four: equally many in each class.
    slices : int
        Images per patient, before copies; at least four images for each class.
    size : int
        Height and width, pixels, at least 64.
    seed : int
        The same seed and `PHANTOM_VERSION` write the same bytes.

    Returns
    -------
    Path
        The folder. It appears complete or not at all.

    Raises
    ------
    FileExistsError
        If the folder is not empty.

    Examples
    --------
    >>> write_phantom("my-phantom", patients=8, slices=3)  # doctest: +SKIP
    PosixPath('my-phantom')
    """
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} exists: delete it, or choose another folder")
    from joblib import Parallel, delayed
    from tqdm.auto import tqdm

    *seeds, layout_seed = np.random.SeedSequence(seed).spawn(patients + 1)
    layout = _layout(patients, slices, np.random.default_rng(layout_seed))
    grow_anatomy()  # once, before the threads ask for it
    workers = Parallel(n_jobs=min(2, os.cpu_count() or 1), prefer="threads", return_as="generator")
    with paths.atomic_folder(folder) as fresh:
        for path in {Path(path).parent for path in layout["path"]}:
            (fresh / path).mkdir(parents=True)
        jobs = (delayed(_write_patient)(fresh, files, seeds[patient], slices, size)
                for patient, files in layout.groupby("patient"))  # fmt: skip
        written = tqdm(workers(jobs), total=patients, desc="phantom", unit="patient", delay=2)
        columns = ["path", "patient", "source", "source_image", "mirrored", "plane", "outline"]
        table = pd.DataFrame(itertools.chain(*written), columns=columns).sort_values("path")
        table.to_csv(fresh / "images.csv", index=False, encoding="utf-8", lineterminator="\n")
    return folder


def _layout(patients: int, slices: int, random: np.random.Generator) -> pd.DataFrame:
    """Return one row per file: patient, slice, label, form, path."""
    numbers = np.arange(patients * slices)
    table = pd.DataFrame({"patient": numbers // slices, "slice": numbers % slices, "form": "plain"})
    table["label"] = np.array(CLASS_NAMES)[table["patient"] % len(CLASS_NAMES)]
    rank = table.groupby("label")["form"].transform(lambda rows: random.permutation(len(rows)))
    table["split"] = np.where(rank % 5 == 0, "Testing", "Training")
    odd = table.index[(table["label"] == "notumor") & (table["split"] == "Training")][:2]
    table.loc[odd, "form"] = ["alpha", "palette"]
    copies = table.loc[random.permutation(numbers)[: 2 * max(1, round(len(table) / 10))]].copy()
    copies["form"] = np.resize(["duplicate", "mirror"], len(copies))
    across = np.arange(len(copies)) // 2 % 2 == 0
    other = np.where(copies["split"] == "Testing", "Training", "Testing")
    copies["split"] = copies["split"].where(~across, other)
    table = pd.concat([table, copies], ignore_index=True)
    table = table.loc[random.permutation(len(table))].reset_index(drop=True)
    number = (table.groupby(["split", "label"]).cumcount() + 1).map("{:04d}".format)
    name = table["split"].str[:2] + "-" + table["label"].str[:2] + "_" + number + ".jpg"
    table["path"] = table["split"] + "/" + table["label"] + "/" + name
    return table


def _write_patient(
    folder: Path, files: pd.DataFrame, seed: np.random.SeedSequence, slices: int, size: int
) -> list[tuple]:
    simulated = simulate_patient(str(files["label"].iloc[0]), seed, slices, size)
    rows = []
    for file in files.itertuples():
        image, patient = simulated[file.slice], f"phantom-{file.patient + 1:04d}"
        is_mirrored = file.form == "mirror"
        step = -1 if is_mirrored else 1
        _encode(image.pixels[:, ::step], file.form, folder / file.path)
        outline = trace_outline(image.lesion[:, ::step])
        name = f"{patient}-{file.slice + 1:02d}"
        rows.append((file.path, patient, "phantom", name, int(is_mirrored), image.plane, outline))
    return rows


def _encode(pixels: np.ndarray, form: str, path: Path) -> None:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if form == "alpha":
        image.convert("RGBA").save(path, "PNG")
    elif form == "palette":  # reversed, so that an index mistaken for a grey level shows
        image = Image.frombytes("P", pixels.shape[::-1], (255 - pixels).tobytes())
        image.putpalette(np.repeat(np.arange(255, -1, -1), 3).astype(np.uint8).tobytes())
        image.save(path, "PNG")
    else:
        image.save(path, "JPEG", quality=85 if form == "duplicate" else 90)
