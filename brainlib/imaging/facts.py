"""What a header says about how an image was made, without what could name a person."""

import re
from collections.abc import Callable
from typing import Any

from brainlib.imaging.errors import ImageError

# of what people typed, only these are kept: a description may name the patient
_WORDS = re.compile(
    r"\b(t[12]w?|t2\*|pd|flair|mp2?rage|spgr|bravo|space|cube|vibe|dwi|adc|swi|se|tse|fse|gre|ge|"
    r"ir|stir|fs|fat|sat|ax\w{0,5}|cor\w{0,5}|sag\w{0,7}|tra|3d|2d|iso|pre|post|gd|gado\w*|km|"
    r"contrast|c|brain|head|native|mr|mri|wip|dark|fluid|hr|highres)(?![a-z])", re.IGNORECASE,
)  # fmt: skip
_CODES = re.compile(r"(SE|IR|GR|EP|RM)(\W+(SE|IR|GR|EP|RM))*")
_COMPLEX = {"P", "PHASE", "PHASE MAP", "I", "IMAGINARY"}


def header_facts(get: Callable[[str], Any]) -> dict[str, Any]:
    """Return modality and facts, as `ScanSlice` has them, of a DICOM header or a BIDS sidecar.

    Parameters
    ----------
    get : callable
        Gives the value of a tag by its DICOM keyword, or None.

    Raises
    ------
    ImageError
        Where it says that it is a phase or imaginary image.

    Examples
    --------
    >>> header_facts({"Modality": "MR", "SeriesDescription": "Ax T1 of Jane +C"}.get)
    {'modality': 'MR', 'facts': {'description': 'Ax T1 C'}}
    """
    if _COMPLEX & {*_texts(get("ImageType"))[2:], *_texts(get("ComplexImageComponent"))}:
        raise ImageError("skipped: it is a phase or imaginary image; choose the magnitude image")
    modality = str(get("Modality") or "")
    sequence = " ".join(_texts(get("ScanningSequence")))
    strength = re.match(r"\d\.?\d*", str(get("MagneticFieldStrength") or ""))
    facts = {
        "description": " ".join(word[0] for word in _WORDS.finditer(str(get("SeriesDescription")))),
        "sequence": sequence if _CODES.fullmatch(sequence) else "",
        "contrast": "given" if get("ContrastBolusAgent") or get("ContrastBolusIngredient") else "",
        "field strength": f"{float(strength[0]):.2g} T" if strength else "",
    }
    # a damaged tag may hold anything
    return {"modality": modality if re.fullmatch("[A-Z]{2,6}", modality) else "",
            "facts": {name: fact for name, fact in facts.items() if fact}}  # fmt: skip


def _texts(value: Any) -> list[str]:
    return value.split("\\") if isinstance(value, str) else [str(part) for part in value or []]
