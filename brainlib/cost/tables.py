"""The table of comparisons that everything here is shown in."""

import pandas as pd

COLUMNS = ["unit", "ours", "other", "ratio"]


def as_table(rows: dict[str, tuple[str, float, float]]) -> pd.DataFrame:
    """Return comparisons, by name a unit and two numbers, as a table with their ratios.

    Examples
    --------
    >>> as_table({"steps": ("pictures a second", 50.0, 100.0)})["ratio"].tolist()
    [0.5]
    """
    table = pd.DataFrame.from_dict(rows, "index", columns=COLUMNS[:3]).rename_axis("comparison")
    return table.assign(ratio=table["ours"] / table["other"]).round(3)
