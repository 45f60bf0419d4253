"""Release manifests: the SHA-256 of each file that the answers of a released model depend on.

`<model>.release.json` lies beside the model's files and lists them. Where it lies, a file that is
changed, missing or not listed is refused; files without a manifest, such as a user's own model,
pass.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from brainlib import paths
from brainlib.paths import BrainlibError

SUFFIX = ".release.json"


def write_manifest(model: Path, files: Iterable[Path]) -> Path:
    """Write the manifest of a model, which lists exactly these files.

    Parameters
    ----------
    model : Path
        Any of the model's files, such as `model/lesion_net.keras`.
    files : iterable of Path
        They lie beside the model.
    """
    hashes = {file.name: paths.file_hash(file) for file in files}
    text = json.dumps({"files": hashes}, indent=1) + "\n"
    return paths.write_text(model.with_suffix(SUFFIX), text)


def check_file(file: Path, content: bytes) -> None:
    """Check what was read from a file against the manifest beside it, if there is one.

    Raises
    ------
    BrainlibError
        Where the file is not the released one, or the manifest is damaged.

    Examples
    --------
    >>> check_file(Path("my_own_model.onnx"), b"")  # no manifest beside it
    """
    manifest = beside(file)
    if manifest is None:
        return
    try:
        expected = json.loads(manifest.read_text("utf-8"))["files"].get(file.name)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise BrainlibError(
            f"{manifest} cannot be read as a release manifest ({error}): fetch the released files "
            "again, all of them"
        ) from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise _not_released(file, "is not the released file" if expected else "is not listed")


def read_file(file: Path) -> bytes | None:
    """Return the checked content of a file, or None where a model without manifest lacks it.

    Raises
    ------
    BrainlibError
        Where the file is not the released one, or is missing beside a manifest.
    """
    try:
        content = file.read_bytes()
    except FileNotFoundError as error:
        if beside(file):
            raise _not_released(file, "is missing") from error
        return None
    check_file(file, content)
    return content


def require_manifest(model: Path) -> None:
    """Refuse a released model whose manifest is gone: nothing would be checked.

    Raises
    ------
    BrainlibError
        Where no manifest lies beside the model.
    """
    if not model.with_suffix(SUFFIX).is_file():
        raise BrainlibError(
            f"there is no {model.with_suffix(SUFFIX)}: fetch the released files again, all of "
            "them, or name a model of your own"
        )


def beside(file: Path) -> Path | None:
    """Return the manifest of the model that a file such as `my.model.gate.npz` belongs to."""
    parts = file.name.split(".")
    stems = (".".join(parts[:count]) for count in range(len(parts) - 1, 0, -1))
    candidates = (file.with_name(stem + SUFFIX) for stem in stems)
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _not_released(file: Path, problem: str) -> BrainlibError:
    return BrainlibError(
        f"{file} {problem}, says {beside(file)}: fetch the released files again, all of "
        "them, or give a model of your own another name"
    )
