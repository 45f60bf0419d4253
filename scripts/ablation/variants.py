"""The short recipe, and the same with one part of it left out or exchanged."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

from brainlib import models
from brainlib.paths import BrainlibError
from brainlib.training import RECIPES, Augmentation, Cycle, Schedule

MODEL = "brain_tumor"
WHOLE = "whole"

_FIRST = replace(RECIPES[MODEL].cycles[0], until=1.0)
SHORT = replace(RECIPES[MODEL], epochs=8, sizes=((64, 1.0),), cycles=(_FIRST,))
"""The first cycle of the released recipe, cut to a few minutes on one core."""

_BARELY = 1e-9
"""A weight decay that does nothing: with 0 `fit` takes Adam, which differs in more than that."""

_PHOTOMETRIC = {"gamma": 0.0, "bias": 0.0, "noise": 0.0, "coarse": 0.0}
_GEOMETRIC = {"rotation": 0.0, "scale": 0.0, "shift": 0.0, "mirror": 0.0}
_ALL_PARTS, _ALL_CHANGES = models.Parts(), Augmentation()
_GLOBAL = models.Parts(lesion_pooling=False)


class AblationError(BrainlibError):
    """A study that cannot be made as it is asked for."""


@dataclass(frozen=True)
class Variant:
    """The recipe, or the recipe without one part.

    Attributes
    ----------
    title : str
    parts : models.Parts
    augmentation : Augmentation
    outlines : bool
        Whether the outlines are taught; without them the network learns from the class alone, and
        what it draws is not scored.
    schedule : Schedule
    """

    title: str
    parts: models.Parts = _ALL_PARTS
    augmentation: Augmentation = _ALL_CHANGES
    outlines: bool = True
    schedule: Schedule = SHORT


VARIANTS = {
    WHOLE: Variant("the whole short recipe"),
    "no_outlines": Variant("without outlines, class alone", outlines=False),
    "no_lesion_pooling": Variant("without pooling by lesion", parts=_GLOBAL),
    "plain": Variant("without both", parts=_GLOBAL, outlines=False),
    "no_augmentation": Variant(
        "without augmentation", augmentation=Augmentation(**_PHOTOMETRIC, **_GEOMETRIC)
    ),
    "no_photometric": Variant(
        "without changes of contrast, bias field, noise, resolution",
        augmentation=Augmentation(**_PHOTOMETRIC),
    ),
    "no_normalisation": Variant(
        "without normalising each picture", parts=models.Parts(normalisation=False)
    ),
    "no_local_contrast": Variant(
        "without local contrast", parts=models.Parts(local_contrast=False)
    ),
    "constant_rate": Variant(
        "without warm-up and cosine, constant rate", schedule=replace(SHORT, warm_up=0.0)
    ),
    "no_weight_decay": Variant(
        "without weight decay", schedule=replace(SHORT, weight_decay=_BARELY)
    ),
    "mixup": Variant(
        "with mixup from the start", schedule=replace(SHORT, cycles=(replace(_FIRST, mixup=0.3),))
    ),
    "light_outlines": Variant(
        "with outlines counted once, not four times", schedule=replace(SHORT, cycles=(Cycle(),))
    ),
    "larger": Variant(
        "pictures of 96 by 96 instead of 64 by 64", schedule=replace(SHORT, sizes=((96, 1.0),))
    ),
}
"""What is compared, the whole recipe first."""


def choose_variants(names: Iterable[str] = (), epochs: int = 0) -> dict[str, Variant]:
    """Return some variants by name, the whole recipe always among them.

    Parameters
    ----------
    names : iterable of str
        Keys of `VARIANTS`; all of them where it is empty.
    epochs : int
        Instead of those of `SHORT`, where it is not 0.

    Raises
    ------
    AblationError
        For an unknown variant.
    """
    wanted = list(names) or list(VARIANTS)
    unknown = [name for name in wanted if name not in VARIANTS]
    if unknown:
        raise AblationError(
            f"no variant {', '.join(unknown)}: choose some of {', '.join(VARIANTS)}"
        )
    found = {name: VARIANTS[name] for name in VARIANTS if name in {WHOLE, *wanted}}
    if not epochs:
        return found
    return {
        name: replace(variant, schedule=replace(variant.schedule, epochs=epochs))
        for name, variant in found.items()
    }


def fingerprint(variant: Variant, seed: int, data: str) -> str:
    """Return 12 hexadecimal digits over all that decides a run beside its own seed and our code.

    Parameters
    ----------
    variant : Variant
    seed : int
        Of the choice of validation groups.
    data : str
        The hash of the collection.
    """
    choices = {**asdict(variant), "title": "", "split": seed, "data": data}
    return hashlib.sha256(json.dumps(choices, sort_keys=True).encode()).hexdigest()[:12]
