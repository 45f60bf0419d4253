"""Find pictures that are the same picture: identical, re-saved, re-contrasted or mirrored.

Two pictures are compared by the correlation of their 32 × 32 thumbnails, once as they are and once
with one of them mirrored. Perceptual hashes are of no use here: heads look too much alike.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse
import scipy.sparse.csgraph

from brainlib.audit.pictures import AuditError, check_pixels, known, thumbnails

DUPLICATE_THRESHOLD = 0.994
"""Correlation from which two pictures are the same picture.

On the Kaggle collection the least similar files known to show one picture correlate at 0.9955, the
most similar neighbouring slices of one patient at 0.9921, the most similar pictures of different
patients at 0.9756.
"""

GROUP_THRESHOLD = 0.98
"""Correlation from which two pictures are kept on one side of a split.

Lower than `DUPLICATE_THRESHOLD`, so that near neighbours of a slice come along, and still above
every one of 4.65 million pairs of slices of different patients.
"""

THUMBNAIL_SIZE = 32
BLOCK = 2048
MIRROR_TOLERANCE = 1e-6


@dataclass(frozen=True)
class _Halves:
    """Thumbnails split into a part that mirroring keeps and a part that it turns round.

    The correlation of two pictures is then the sum of two products, and that of one picture with
    the other's mirror image their difference: both for the price of one.
    """

    even: np.ndarray
    odd: np.ndarray

    def products(self, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        """Products of the even and of the odd parts of two blocks of pictures."""
        return (
            self.even[rows] @ self.even[columns].T,
            self.odd[rows] @ self.odd[columns].T,
        )


def _halves(flat: np.ndarray) -> _Halves:
    size = round(flat.shape[1] ** 0.5)
    if size % 2 or size * size != flat.shape[1]:
        raise AuditError(f"a thumbnail's side must be an even number of pixels, not {size}")
    square = flat.reshape(-1, size, size)
    left, right = square[:, :, : size // 2], square[:, :, : size // 2 - 1 : -1]
    scale = np.float32(0.5**0.5)
    return _Halves(
        ((left + right) * scale).reshape(len(flat), size * size // 2),
        ((left - right) * scale).reshape(len(flat), size * size // 2),
    )


def _blocks(count: int) -> Iterator[tuple[slice, slice]]:
    """Pairs of row ranges that cover every pair of pictures once."""
    for first in range(0, count, BLOCK):
        for second in range(first, count, BLOCK):
            yield slice(first, first + BLOCK), slice(second, second + BLOCK)


def _identical(pixels: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    pairs = zip(first, second, strict=True)
    return np.array([np.array_equal(pixels[i], pixels[j]) for i, j in pairs], bool)


def find_duplicates(
    table: pd.DataFrame,
    pixels: np.ndarray,
    threshold: float = DUPLICATE_THRESHOLD,
    size: int = THUMBNAIL_SIZE,
    most_pairs: int = 5_000_000,
) -> pd.DataFrame:
    """Find all pairs of pictures that show the same picture, or its mirror image.

    Time grows with the square of the number of pictures, memory with the number;
    `figures/bench_audit.csv` has both for 7,000 and 70,000 pictures (`make bench`).

    Parameters
    ----------
    table : DataFrame
        Image table, n rows.
    pixels : ndarray of uint8, shape (n, height, width, 1)
        Its pixels, row by row. A memory map will do.
    threshold : float, default 0.994
        Smallest correlation of two thumbnails that counts.
    size : int, default 32
        Side of a thumbnail; even.
    most_pairs : int, default 5,000,000
        Stop with an error beyond this number of pairs.

    Returns
    -------
    DataFrame
        One row per pair, in order of `first`, `second`: `first`, `second` (row positions,
        first < second), `correlation` (float32, the larger of plain and mirrored), `mirrored`
        (bool: the mirrored one is larger), `identical` (bool: the same pixels). A blank picture
        is in no pair.

    Raises
    ------
    AuditError
        If pixels and table do not fit, the threshold is not above 0 and at most 1, or the pairs
        are too many.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> picture = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 1), np.uint8)
    >>> pair = np.concatenate([picture, picture[:, :, ::-1]])
    >>> find_duplicates(pd.DataFrame({"path": ["a.jpg", "b.jpg"]}), pair).mirrored.tolist()
    [True]
    """
    check_pixels(pixels, len(table))
    if not 0 < threshold <= 1:
        raise AuditError(f"threshold must be above 0 and at most 1, not {threshold}")
    halves = _halves(thumbnails(pixels, size))
    found: list[tuple[np.ndarray, ...]] = []
    total = 0
    for rows, columns in _blocks(len(table)):
        found.append(_pairs_in_block(halves, rows, columns, threshold))
        total += len(found[-1][0])
        if total > most_pairs:
            raise AuditError(
                f"more than {most_pairs} pairs correlate at {threshold} or above: "
                "raise the threshold, or look whether the pictures are blank or all alike"
            )
    return _pair_table(found, pixels)


def _pairs_in_block(
    halves: _Halves, rows: slice, columns: slice, threshold: float
) -> tuple[np.ndarray, ...]:
    even, odd = halves.products(rows, columns)
    best = even + np.abs(odd)
    if rows == columns:
        best[np.tril_indices(len(best))] = -1
    # Rounding must not lose a picture that correlates with its copy at one.
    hits = np.nonzero(best >= threshold - MIRROR_TOLERANCE)
    return (
        hits[0] + rows.start,
        hits[1] + columns.start,
        np.minimum(best[hits], 1),
        odd[hits] < -MIRROR_TOLERANCE,
    )


def _pair_table(found: list[tuple[np.ndarray, ...]], pixels: np.ndarray) -> pd.DataFrame:
    if not found:
        found = [(np.empty(0, int), np.empty(0, int), np.empty(0, np.float32), np.empty(0, bool))]
    first, second, correlation, mirrored = (
        np.concatenate(part) for part in zip(*found, strict=True)
    )
    identical = (correlation > 0.9999) & ~mirrored
    identical[identical] = _identical(pixels, first[identical], second[identical])
    pairs = pd.DataFrame(
        {
            "first": first.astype(np.int64),
            "second": second.astype(np.int64),
            "correlation": correlation.astype(np.float32),
            "mirrored": mirrored.astype(bool),
            "identical": identical.astype(bool),
        }
    )
    return pairs.sort_values(["first", "second"], ignore_index=True)


def duplicate_groups(table: pd.DataFrame | int, pairs: pd.DataFrame) -> np.ndarray:
    """Give one number to all pictures that pairs connect, directly or through others.

    Parameters
    ----------
    table : DataFrame or int
        Image table, or its number of rows n.
    pairs : DataFrame
        Pairs as `find_duplicates` gives them; only `first` and `second` are read.

    Returns
    -------
    ndarray of int64, shape (n,)
        The set's number for each row, 0, 1, 2, … in the order in which the sets first appear.
        A picture without a pair is a set of its own.

    Raises
    ------
    AuditError
        If a pair names a row that the table does not have.

    Examples
    --------
    >>> import pandas as pd
    >>> duplicate_groups(4, pd.DataFrame({"first": [0], "second": [2]})).tolist()
    [0, 1, 0, 2]
    """
    count = table if isinstance(table, int) else len(table)
    ends = pairs[["first", "second"]].to_numpy(np.int64)
    if len(ends) and (ends.min() < 0 or ends.max() >= count):
        raise AuditError(f"a pair names row {ends.max()}, but the table has {count} rows")
    graph = scipy.sparse.coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), (count, count))
    _, component = scipy.sparse.csgraph.connected_components(graph, directed=False)
    return pd.factorize(component)[0].astype(np.int64)


def group_from_audit(
    table: pd.DataFrame, pixels: np.ndarray, threshold: float = GROUP_THRESHOLD
) -> pd.Series:
    """Name groups for a table that comes without patients, from the pixels alone.

    Such groups keep copies, mirror images and the nearest slices together. They do not know
    patients: far slices of one patient look different and end up in different groups, so a split
    by these groups is better than none and still too kind.

    Parameters
    ----------
    table : DataFrame
        Image table, n rows.
    pixels : ndarray of uint8, shape (n, height, width, 1)
        Its pixels.
    threshold : float, default 0.98
        Smallest correlation that keeps two pictures together.

    Returns
    -------
    Series of str, name "group", index of the table
        `audit_<n>`.

    Raises
    ------
    AuditError
        As `find_duplicates`.
    """
    numbers = duplicate_groups(table, find_duplicates(table, pixels, threshold))
    return pd.Series([f"audit_{number}" for number in numbers], table.index, str, name="group")


@dataclass(frozen=True)
class NegativeControl:
    """How alike pictures are that are certainly not the same.

    Attributes
    ----------
    nearest : DataFrame
        One row per picture with a known patient: `row` (position in the table), `other_patient`
        (largest correlation with a picture of another patient) and `same_patient` (with another
        picture of the same patient; −1 if there is none), float32.
    pairs : int
        Number of pairs of pictures of different patients.
    highest : ndarray of float32, shape (k,)
        The largest correlations among these pairs, descending; k is at most 100,000.
    """

    nearest: pd.DataFrame
    pairs: int
    highest: np.ndarray

    def false_pairs(self, threshold: float) -> int:
        """Count the pairs of different patients that a threshold would call the same picture.

        Parameters
        ----------
        threshold : float
            Smallest correlation that counts.

        Returns
        -------
        int
            Number of pairs, exact up to the length of `highest`.
        """
        return int((self.highest >= threshold).sum())

    def threshold(self, rate: float = 1e-6) -> float:
        """Find the threshold that calls at most a given share of these pairs the same picture.

        Parameters
        ----------
        rate : float, default 1e-6
            False pairs in each pair of different patients.

        Returns
        -------
        float
            Smallest threshold that keeps the rate.

        Raises
        ------
        AuditError
            If the rate is so large that the answer is not among the highest correlations.
        """
        allowed = int(rate * self.pairs)
        if allowed >= len(self.highest):
            raise AuditError(f"rate must be below {len(self.highest) / self.pairs:.2g}, not {rate}")
        return float(np.nextafter(self.highest[allowed], np.float32(2)))


def negative_control(
    table: pd.DataFrame,
    pixels: np.ndarray,
    size: int = THUMBNAIL_SIZE,
    most_kept: int = 100_000,
) -> NegativeControl:
    """Compare pictures of different known patients, to know how high chance reaches.

    Give it one file for each source picture: a picture and its copy compared with a third count
    as two pairs, and a copy counts as another picture of the same patient.

    Parameters
    ----------
    table : DataFrame
        Image table with `patient`; rows whose patient is empty or missing are left out.
    pixels : ndarray of uint8, shape (n, height, width, 1)
        Its pixels.
    size : int, default 32
        Side of a thumbnail; even.
    most_kept : int, default 100,000
        Number of largest correlations that are kept.

    Returns
    -------
    NegativeControl
        Largest correlation for each picture, and the largest of all pairs.

    Raises
    ------
    AuditError
        If fewer than two patients are known, or pixels and table do not fit.
    """
    check_pixels(pixels, len(table))
    rows = np.nonzero(known(table["patient"]))[0]
    patient = pd.factorize(table["patient"].to_numpy(object)[rows])[0]
    if len(rows) == 0 or patient.max() == 0:
        raise AuditError("a negative control needs pictures of at least two known patients")
    halves = _halves(thumbnails(pixels[rows], size))
    other = np.full(len(rows), -1, np.float32)
    same = np.full(len(rows), -1, np.float32)
    highest, pairs = np.empty(0, np.float32), 0
    for left, right in _blocks(len(rows)):
        even, odd = halves.products(left, right)
        best = np.minimum(even + np.abs(odd), 1)
        alike = patient[left, None] == patient[None, right]
        across = np.where(alike, -1, best)
        within = np.where(alike, best, -1)
        if left == right:
            np.fill_diagonal(within, -1)
            alike |= np.tri(len(best), dtype=bool)
        for largest, block in ((other, across), (same, within)):
            largest[left] = np.maximum(largest[left], block.max(axis=1))
            largest[right] = np.maximum(largest[right], block.max(axis=0))
        values = best[~alike]
        pairs += len(values)
        highest = _largest(np.concatenate([highest, values]), most_kept)
    nearest = pd.DataFrame({"row": rows, "other_patient": other, "same_patient": same})
    return NegativeControl(nearest, pairs, np.sort(highest)[::-1])


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    if len(values) <= count:
        return values
    return np.partition(values, len(values) - count)[len(values) - count :]
