"""Duplicate images, and what they mean for labels and splits.

They are identical, re-saved, re-contrasted, mirrored or cropped again.

Two images are compared by the correlation of their 32 × 32 thumbnails, as they are and with one of
them mirrored. Perceptual hashes do not work here: heads look too much alike.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from brainlib.audit.features import THUMBNAIL_SIZE, crop_heads, thumbnails
from brainlib.data.datasets import SPLIT_NAMES
from brainlib.data.splits import has_splits

TRAINING, TESTING = SPLIT_NAMES

DUPLICATE_THRESHOLD = 0.994
"""Correlation from which two images are the same image.

In the Kaggle collection the least similar files known to show one image correlate at 0.9955, the
most similar neighbouring slices of one patient at 0.9921, the most similar images of different
patients at 0.9756.
"""

GROUP_THRESHOLD = 0.98
"""Correlation from which two images are kept on one side of a split.

Lower than `DUPLICATE_THRESHOLD`, to include near neighbours of a slice, and still above every one
of 4.65 million pairs of slices of different patients.
"""

LOOK_ALIKE_THRESHOLD = 0.97
"""Correlation from which two cropped heads are taken for one person's.

In the Kaggle collection the most similar heads of different patients correlate at 0.957.
"""

_BLOCK = 2048
_ROUNDING = 1e-6
_NO_PAIR = -2

MEANINGS = {
    "pairs": "pairs of files that show the same image",
    "mirrored_pairs": "… of these, mirrored",
    "identical_pairs": "… of these, identical in every pixel",
    "pairs_with_two_labels": "… of these, with two labels",
    "known_pairs": "pairs of one source image, known from provenance",
    "recall": "recall: share of the known pairs that was found",
    "control_pairs": "negative control: pairs of different patients",
    "control_false_pairs": "… of these, above the threshold",
    "control_highest_correlation": "… their highest correlation",
    "test_images": "test images",
    "test_twin": "… that look like a file in Training",
    "test_patient": "… whose patient is in Training, as far as patients are known",
    "test_group": "… whose group is in Training",
    "test_free": "… free of any tie to Training",
    "look_alike_pairs": "pairs of look-alikes in different folds",
    "look_alike_images": "images of unknown patients in these pairs",
    "look_alike_threshold": "threshold of the correlation",
    "look_alike_control": "highest correlation of different patients",
    "largest_source": "accuracy of always naming the largest source",
    "source_accuracy": "… of the source predicted from twelve intensity statistics",
    "largest_answer": "… of always answering 'tumour', or always 'no tumour'",
    "tumour_accuracy_by_source": "… of tumour or none from the true source alone",
    "tumour_accuracy_by_predicted_source": "… of tumour or none from the predicted source alone",
}
"""Those numbers of an audit that matter most to readers."""


@dataclass(frozen=True)
class AuditReport:
    """Result of an audit.

    Attributes
    ----------
    pairs : DataFrame
        Duplicates, as `find_duplicates` returns them.
    conflicts : DataFrame
        Those with two labels, with `first_path`, `first_label`, `second_path`, `second_label`: at
        least one of the labels is wrong.
    numbers : dict of str to number
        All counts, as `metrics.json` holds them. With the splits these are among them, of the test
        images: `test_images` (all), `test_twin` (a duplicate is in training), `test_patient_known`,
        `test_patient` (of these, the patient is in training), `test_group` (the group is in
        training), `test_free` (none of these in training).
    """

    pairs: pd.DataFrame
    conflicts: pd.DataFrame
    numbers: dict[str, float]


def find_duplicates(
    table: pd.DataFrame, pixels: np.ndarray, threshold: float = DUPLICATE_THRESHOLD
) -> pd.DataFrame:
    """Find all pairs of images that show the same image, or its mirror image.

    Time grows with the square of the number of images, memory with the number.

    Parameters
    ----------
    table : DataFrame
        Image table, n rows.
    pixels : ndarray of uint8, shape (n, height, width, 1)
        Its pixels, row by row.
    threshold : float, default 0.994
        Smallest correlation of two thumbnails that counts.

    Returns
    -------
    DataFrame
        One row per pair, in order of `first`, `second`: `first`, `second` (row positions,
        first < second), `correlation` (float32, the larger of plain and mirrored), `mirrored`
        (bool: the mirrored one is larger), `identical` (bool: the same pixels). A blank image is
        in no pair.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 1), np.uint8)
    >>> pair = np.concatenate([image, image[:, :, ::-1]])
    >>> find_duplicates(pd.DataFrame({"path": ["a.jpg", "b.jpg"]}), pair).mirrored.tolist()
    [True]
    """
    blocks: list[pd.DataFrame] = []
    for rows, columns, best, is_mirrored in _correlations(pixels):
        hits = np.nonzero(best >= threshold - _ROUNDING)  # rounding must not lose an identical copy
        blocks.append(pd.DataFrame({
            "first": hits[0] + rows.start, "second": hits[1] + columns.start,
            "correlation": np.minimum(best[hits], 1), "mirrored": is_mirrored[hits],
        }))  # fmt: skip
    pairs = pd.concat(blocks).sort_values(["first", "second"], ignore_index=True)
    identical = ((pairs["correlation"] > 0.9999) & ~pairs["mirrored"]).to_numpy(copy=True)
    for row in np.flatnonzero(identical):
        identical[row] = np.array_equal(*pixels[pairs.loc[row, ["first", "second"]].astype(int)])
    return pairs.assign(identical=identical)


def group_from_audit(table: pd.DataFrame, pixels: np.ndarray) -> pd.Series:
    """Derive groups from the pixels alone, for a table without patients.

    Such groups keep copies, mirror images and the nearest slices together. They do not know
    patients: distant slices of one patient look different and end up in different groups, so a
    split by these groups is better than none but still optimistic.

    Returns
    -------
    Series of str, name "group", index of the table
        `audit_<n>`.
    """
    pairs = find_duplicates(table, pixels, GROUP_THRESHOLD)
    edges = (np.ones(len(pairs)), (pairs["first"], pairs["second"]))
    graph = coo_array(edges, (len(table), len(table)))
    numbers = pd.factorize(connected_components(graph, directed=False)[1])[0]
    return pd.Series([f"audit_{number}" for number in numbers], table.index, str, name="group")


def negative_control(table: pd.DataFrame, pixels: np.ndarray) -> dict[str, float]:
    """Measure how similar images of different known patients are by chance.

    Give it one file for each source image, so that copies do not count as further pairs.

    Returns
    -------
    dict of str to number
        `control_pairs`, the number of pairs of images of different patients; their
        `control_highest_correlation`; and `control_false_pairs`, those that would be taken for
        duplicates. Empty if fewer than two patients are known.
    """
    rows = np.flatnonzero(table["patient"] != "")
    patient = pd.factorize(table["patient"].iloc[rows])[0]
    if len(np.unique(patient)) < 2:
        return {}
    pairs, highest, false_pairs = 0, -1.0, 0
    for left, right, best, _ in _correlations(pixels[rows]):
        is_pair = (patient[left, None] != patient[None, right]) & (best > _NO_PAIR)
        values = np.minimum(best[is_pair], 1)
        pairs += values.size
        highest = float(values.max(initial=highest))
        false_pairs += int((values >= DUPLICATE_THRESHOLD).sum())
    return {"control_pairs": pairs, "control_highest_correlation": highest,
            "control_false_pairs": false_pairs}  # fmt: skip


def look_alikes_across_folds(
    table: pd.DataFrame, pixels: np.ndarray, folds: np.ndarray
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Find images of unknown patients that look like one in another fold.

    The groups of the collection come from whole images. The same slice, cropped or moved by
    somebody else, escapes them: here each image is cropped to its head first.

    Parameters
    ----------
    table : DataFrame
        Image table, n rows.
    pixels : ndarray of uint8, shape (n, height, width, 1)
        Its pixels.
    folds : int array of shape (n,)
        The test fold of each row, -1 for none, as `splits.assign_folds` returns them.

    Returns
    -------
    pairs : DataFrame
        `first`, `second` (paths), `correlation`, the most similar first. At least one patient of
        each pair is unknown: known patients are in one fold by construction.
    numbers : dict of str to number
        `look_alike_threshold`, `look_alike_pairs`, the `look_alike_images` in them, and, if
        patients are known, the `look_alike_control`: the highest correlation of heads of two
        different patients.
    """
    rows = np.flatnonzero(folds >= 0)
    used, heads = table.iloc[rows].reset_index(drop=True), crop_heads(pixels[rows])
    pairs = find_duplicates(used, heads, LOOK_ALIKE_THRESHOLD)
    pairs = pairs.sort_values("correlation", ascending=False, kind="stable")
    ends = pairs[["first", "second"]].to_numpy()
    apart = np.ptp(folds[rows][ends], axis=1) > 0
    unknown = (used["patient"] == "").to_numpy()[ends].any(axis=1)
    paths = used["path"].to_numpy()[ends[apart & unknown]]
    listed = pd.DataFrame(paths, columns=["first", "second"])
    listed["correlation"] = pairs["correlation"].to_numpy()[apart & unknown].round(4)
    numbers = {"look_alike_threshold": LOOK_ALIKE_THRESHOLD, "look_alike_pairs": len(listed),
               "look_alike_images": len(np.unique(paths))}  # fmt: skip
    if control := negative_control(used, heads):
        numbers["look_alike_control"] = control["control_highest_correlation"]
    return listed, numbers


def audit_collection(table: pd.DataFrame, pixels: np.ndarray) -> AuditReport:
    """Find duplicates from pixels alone, then compare them with the provenance in the table.

    Parameters
    ----------
    table : DataFrame
        Image table, n rows.
    pixels : ndarray of uint8, shape (n, height, width, 1)

    Returns
    -------
    AuditReport
        Recall and false alarms require known source images, the negative control patients, and
        the ties the splits Training and Testing; what cannot be measured is absent.
    """
    pairs = find_duplicates(table, pixels)
    ends = tuple(table.iloc[pairs[end]].reset_index(drop=True) for end in ("first", "second"))
    first, second = (end[["path", "label"]] for end in ends)
    conflicts = pairs.join(first.add_prefix("first_")).join(second.add_prefix("second_"))
    conflicts = conflicts[first["label"] != second["label"]].reset_index(drop=True)
    numbers = {
        "threshold": DUPLICATE_THRESHOLD,
        "pairs": len(pairs),
        "mirrored_pairs": int(pairs["mirrored"].sum()),
        "identical_pairs": int(pairs["identical"].sum()),
        "pairs_with_two_labels": len(conflicts),
    }
    if wrong := set(table.loc[table["mislabelled"], "path"]):
        revealed = wrong & {*conflicts["first_path"], *conflicts["second_path"]}
        numbers |= {"mislabelled_files": len(wrong), "mislabelled_files_found": len(revealed)}
    repeated = table["source_image"].duplicated().to_numpy()
    if repeated.any():
        numbers |= _compare_with_provenance(table, pairs, *ends)
    numbers |= negative_control(table[~repeated], pixels[~repeated])
    if has_splits(table):
        numbers |= _count_ties(table, pairs)
    return AuditReport(pairs, conflicts, numbers)


def describe(numbers: dict[str, float]) -> pd.DataFrame:
    """Return numbers of the audit with their meaning, as far as they have one in `MEANINGS`.

    Examples
    --------
    >>> describe({"pairs": 8613, "recall": 1.0})["value"].tolist()
    ['8,613', '1.000']
    """
    values = pd.Series(numbers, dtype=object).reindex(MEANINGS).dropna().rename(MEANINGS)
    return values.map(lambda x: f"{x:,}" if isinstance(x, int) else f"{x:.3f}").to_frame("value")


def twins_across_splits(table: pd.DataFrame, pairs: pd.DataFrame, count: int = 6) -> pd.DataFrame:
    """Pick pairs with one file in Training and the other in Testing, for display.

    Parameters
    ----------
    table : DataFrame
        Image table.
    pairs : DataFrame
        As `find_duplicates` returns them.
    count : int
        Maximum number of rows, each of another file, half of them mirrored if there are as many.

    Returns
    -------
    DataFrame
        Rows of `pairs` with `train` and `test`, the row positions of the two files.
    """
    rows = pairs[["first", "second"]].to_numpy()
    sides = table["split"].to_numpy()[rows]
    across = (np.sort(sides) == sorted(SPLIT_NAMES)).all(axis=1)
    ordered = np.where(sides[:, :1] == TRAINING, rows, rows[:, ::-1])
    picked = pairs.assign(train=ordered[:, 0], test=ordered[:, 1])[across]
    picked = picked[~picked["train"].duplicated() & ~picked["test"].duplicated()]
    plain = picked[~picked["mirrored"]].head(count - count // 2)
    return pd.concat([plain, picked[picked["mirrored"]].head(count - len(plain))])


def _count_ties(table: pd.DataFrame, pairs: pd.DataFrame) -> dict[str, int]:
    train = (table["split"] == TRAINING).to_numpy()
    first, second = pairs["first"].to_numpy(), pairs["second"].to_numpy()
    twins = np.concatenate([first[train[second]], second[train[first]]])
    ties = pd.DataFrame({"images": True, "twin": np.isin(np.arange(len(table)), twins),
                         "patient_known": table["patient"] != ""})  # fmt: skip
    for column in ("patient", "group"):
        ties[column] = table[column].isin(set(table.loc[train, column]) - {""})
    ties["free"] = ~ties[["twin", "patient", "group"]].any(axis=1)
    return ties[table["split"] == TESTING].sum().add_prefix("test_").to_dict()


def _compare_with_provenance(
    table: pd.DataFrame, pairs: pd.DataFrame, first: pd.DataFrame, second: pd.DataFrame
) -> dict[str, float]:
    """Compare the pairs with the known ones, two files with the same source image.

    Returns
    -------
    dict of str to number
        `known_pairs`, `found_pairs`, `recall` (found / known); and of the other pairs
        `different_patients`, `same_group_other_file` (patient unknown; near-identical images that
        the provenance table keeps together), `unexplained`.
    """
    sizes = table["source_image"].value_counts()
    known_pairs = int((sizes * (sizes - 1) // 2).sum())
    equal = first == second
    same = equal["source_image"]
    patients = (first["patient"] != "") & (second["patient"] != "") & ~same
    group = equal["group"] & ~same & ~patients
    return {
        "known_pairs": known_pairs,
        "found_pairs": int(same.sum()),
        "recall": float(same.sum() / known_pairs),
        "different_patients": int((patients & ~equal["patient"]).sum()),
        "same_group_other_file": int(group.sum()),
        "unexplained": int((~same & ~patients & ~group).sum()),
    }


def _correlations(pixels: np.ndarray) -> Iterator[tuple[slice, slice, np.ndarray, np.ndarray]]:
    """Yield two ranges of rows, the correlations between them, and which are of mirror images.

    Each pair is given once; what is no pair, or was given already, has `_NO_PAIR`. Thumbnails are
    split into the parts that mirroring keeps and that it negates: the correlation of two images is
    the sum of the products of both parts, and that of one image with the other's mirror image their
    difference, both for the price of one.
    """
    half = THUMBNAIL_SIZE // 2
    square = thumbnails(pixels).reshape(-1, THUMBNAIL_SIZE, THUMBNAIL_SIZE)
    left, right = square[:, :, :half], square[:, :, : half - 1 : -1]
    scale = np.float32(0.5**0.5)
    even, odd = (((left + sign * right) * scale).reshape(len(pixels), -1) for sign in (1, -1))
    blocks = [slice(start, start + _BLOCK) for start in range(0, max(len(pixels), 1), _BLOCK)]
    for rows, columns in combinations_with_replacement(blocks, 2):
        odd_product = odd[rows] @ odd[columns].T
        best = even[rows] @ even[columns].T + np.abs(odd_product)
        if rows == columns:
            best[np.tril_indices(len(best))] = _NO_PAIR
        yield rows, columns, best, odd_product < -_ROUNDING
