"""The upload box of `04_infer`, for JupyterLab."""

import io
from typing import TYPE_CHECKING

import ipywidgets
import pandas as pd

from brainlib import CLASS_NAMES, images, inference, plots

if TYPE_CHECKING:
    import keras


def upload_box(model: "keras.Model") -> ipywidgets.VBox:
    """Return a box that classifies the pictures dropped into it and shows the answers below.

    Parameters
    ----------
    model : keras.Model
        One of ours, as loaded from its file.
    """
    button = ipywidgets.FileUpload(
        accept="image/*", multiple=True, description="Classify a picture"
    )
    button.layout.width = "14em"
    answer = ipywidgets.Output()

    def show(change: dict) -> None:
        answer.clear_output()
        with answer:
            for upload in change["new"]:
                _show_one(model, upload["name"], io.BytesIO(upload["content"]))

    button.observe(show, names="value")
    return ipywidgets.VBox([button, answer])


def _show_one(model: "keras.Model", name: str, content: io.BytesIO) -> None:
    from IPython.display import display

    try:
        picture = images.read_picture(content)
    except images.ImageError as error:
        display(f"{name}: {error}")
        return
    row = dict(zip(CLASS_NAMES, inference.predict_pictures(model, [picture])[0], strict=True))
    answer = pd.DataFrame([{"name": name, **row}])
    display(plots.classified_pictures([picture], answer, f"{name}: {max(row, key=row.get)}"))
