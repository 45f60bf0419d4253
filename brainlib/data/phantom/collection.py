"""The collection on disk: folders, names, copies, odd files, and the table of what is what."""

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from brainlib import CLASS_NAMES
from brainlib.data.phantom.anatomy import grow_anatomy
from brainlib.data.phantom.patient import simulate_patient

COLUMNS = ("path", "patient", "source", "source_image", "mirrored", "plane", "outline")


def write_phantom(
    folder: Path | str, patients: int = 200, slices: int = 6, size: int = 224, seed: int = 0
) -> Path:
    """Write a synthetic collection, laid out like the Kaggle one and leaky like it.

    `<folder>/{Training,Testing}/<class>/` holds grey JPEG pictures, and `images.csv` names for each
    its `path` (relative to the folder), `patient`, `source` (`phantom`), `source_image` (the same
    for all pictures of one slice), `mirrored` (0 or 1), `plane`, and `outline`: a JSON list of
    [x, y], pixels of that picture, empty where there is no lesion. On purpose one slice in ten is
    there twice and one in ten as its mirror image too, every other one of them across the splits;
    the split is drawn by picture, so most patients are on both sides; and two pictures of
    Training/notumor are PNG behind a `.jpg` name, one with an alpha channel and one with a palette.

    Parameters
    ----------
    folder : Path or str
        Where to write; must be absent or empty.
    patients : int
        A multiple of four: each class has as many.
    slices : int
        Pictures a patient, before copies; at least four pictures for each class.
    size : int
        Height and width, pixels, at least 64.
    seed : int
        The same seed and `PHANTOM_VERSION` write the same bytes.

    Returns
    -------
    Path
        The folder. It appears whole or not at all.

    Raises
    ------
    ValueError
        For numbers that are not allowed.
    FileExistsError
        Where the folder holds something already.

    Examples
    --------
    >>> write_phantom("my-phantom", patients=8, slices=3)  # doctest: +SKIP
    PosixPath('my-phantom')
    """
    folder = Path(folder)
    _check_numbers(patients, slices, size)
    _check_absent(folder)
    *seeds, layout_seed = np.random.SeedSequence(seed).spawn(patients + 1)
    layout = _layout(patients, slices, np.random.default_rng(layout_seed))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        whole = Path(temporary) / folder.name
        for place in sorted({Path(path).parent for path in layout["path"]}):
            (whole / place).mkdir(parents=True)
        rows = _write_pictures(whole, layout, seeds, slices, size)
        rows.to_csv(whole / "images.csv", index=False, encoding="utf-8", lineterminator="\n")
        _check_absent(folder)  # another process may have been faster
        if folder.exists():
            folder.rmdir()
        whole.rename(folder)
    return folder


def _check_numbers(patients: int, slices: int, size: int) -> None:
    if patients < 4 or patients % 4:
        raise ValueError(f"patients must be a multiple of 4, as many for each class: {patients}")
    if slices < 1 or patients // 4 * slices < 4:
        raise ValueError(f"{patients} patients of {slices} slices: each class needs 4 slices")
    if size < 64:
        raise ValueError(f"size must be at least 64 pixels, not {size}")


def _check_absent(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists: delete it, or choose another folder")


def _layout(patients: int, slices: int, random: np.random.Generator) -> pd.DataFrame:
    """Return one row per file: patient, slice, label, form, path."""
    numbers = np.arange(patients * slices)
    table = pd.DataFrame({"patient": numbers // slices, "slice": numbers % slices, "form": "plain"})
    table["label"] = np.array(CLASS_NAMES)[table["patient"] % len(CLASS_NAMES)]
    place_in_class = table.groupby("label")["form"].transform(
        lambda rows: random.permutation(len(rows))
    )
    table["split"] = np.where(place_in_class % 5 == 0, "Testing", "Training")
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


def _write_pictures(
    folder: Path, layout: pd.DataFrame, seeds: list, slices: int, size: int
) -> pd.DataFrame:
    from joblib import Parallel, delayed
    from tqdm import tqdm

    grow_anatomy()  # once, before the threads ask for it
    jobs = (
        delayed(_write_patient)(folder, files, seeds[patient], slices, size)
        for patient, files in layout.groupby("patient")
    )
    workers = Parallel(n_jobs=min(2, os.cpu_count() or 1), prefer="threads", return_as="generator")
    rows = list(tqdm(workers(jobs), total=len(seeds), desc="phantom", unit="patient", delay=2))
    table = pd.DataFrame([row for patient in rows for row in patient], columns=COLUMNS)
    return table.sort_values("path")


def _write_patient(
    folder: Path, files: pd.DataFrame, seed: np.random.SeedSequence, slices: int, size: int
) -> list[tuple]:
    pictures = simulate_patient(str(files["label"].iloc[0]), seed, slices, size)
    rows = []
    for file in files.itertuples():
        picture, patient = pictures[file.slice], f"phantom-{file.patient + 1:04d}"
        mirrored = file.form == "mirror"
        _encode(
            picture.pixels[:, ::-1] if mirrored else picture.pixels, file.form, folder / file.path
        )
        outline = _outline(picture.lesion[:, ::-1] if mirrored else picture.lesion)
        original = f"{patient}-{file.slice + 1:02d}"
        rows.append(
            (file.path, patient, "phantom", original, int(mirrored), picture.plane, outline)
        )
    return rows


def _encode(pixels: np.ndarray, form: str, path: Path) -> None:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if form == "alpha":
        image.convert("RGBA").save(path, "PNG")
    elif form == "palette":  # back to front, so that an index taken for a grey level shows
        reversed_image = Image.frombytes("P", pixels.shape[::-1], (255 - pixels).tobytes())
        reversed_image.putpalette(np.repeat(np.arange(255, -1, -1), 3).astype(np.uint8).tobytes())
        reversed_image.save(path, "PNG")
    else:
        image.save(path, "JPEG", quality=85 if form == "duplicate" else 90)


def _outline(lesion: np.ndarray) -> str:
    """Return the longest outline of a mask as JSON, empty where there is none."""
    import contourpy

    if not lesion.any():
        return ""
    field = np.pad(lesion, 1).astype(float)
    lines = contourpy.contour_generator(z=field).lines(0.5)
    longest = max(lines, key=len) - 1
    return json.dumps(np.round(longest[::2], 1).tolist())
