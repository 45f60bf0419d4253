"""Where things lie: the project's root, the cache folder, and writes that are whole or absent."""

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where folders are not locked
    fcntl = None

_PACKAGE_PARENT = Path(__file__).resolve().parent.parent


class BrainlibError(Exception):
    """Base of every error that a user can mend: the message says what, where, and what to do.

    The commands print it as one line and end with exit status 2.

    Examples
    --------
    >>> from brainlib.data import open_collection
    >>> try:
    ...     open_collection("no/such/folder")
    ... except BrainlibError as error:
    ...     print(type(error).__name__)
    BrainlibError
    """


RELEASED_MODEL = "lesion_net.keras"
"""The released model. Its other files (`.onnx`, gate, rules) lie beside it under the same stem."""


def released_model() -> Path:
    """Return where the released model lies: `model/` of the checkout, else inside the package."""
    in_checkout = _PACKAGE_PARENT / "model"
    folder = in_checkout if in_checkout.is_dir() else Path(__file__).resolve().parent / "released"
    return folder / RELEASED_MODEL


def project_root() -> Path:
    """Return the folder that relative paths start from.

    It is the checkout that holds this package, whatever folder a notebook runs in; where brainlib
    was installed without its checkout, it is the working directory.
    """
    return _PACKAGE_PARENT if (_PACKAGE_PARENT / "pyproject.toml").is_file() else Path.cwd()


def resolve(path: Path | str) -> Path:
    """Return `path` as an absolute path, a relative one taken from the project's root."""
    return (project_root() / Path(path).expanduser()).resolve()


def cache_folder() -> Path:
    """Return the folder of decoded images and phantoms: `BRAINLIB_CACHE`, or one in the home.

    Everything in it can be deleted at any time; it is made again when it is needed.
    """
    chosen = os.environ.get("BRAINLIB_CACHE")
    return resolve(chosen) if chosen else Path.home() / ".cache" / "brainlib"


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, renamed onto it once the block has succeeded.

    A run that is killed, or a disk that fills up, leaves the old file or none, never half of one.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "note.txt"
    >>> with atomic_write(target) as temporary:
    ...     _ = temporary.write_text("whole", encoding="utf-8")
    >>> target.read_text(encoding="utf-8")
    'whole'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # the suffix is kept: writers such as Keras and matplotlib choose the format by it
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


_locked: set[Path] = set()


@contextmanager
def locked(folder: Path, name: str = ".lock") -> Iterator[None]:
    """Own a folder until the block ends; the operating system ends the lock of a killed process.

    A block inside another one of the same process and folder changes nothing. Locks of different
    names in a folder do not exclude each other.

    Raises
    ------
    BrainlibError
        Where another process owns it; the message says which.

    Examples
    --------
    >>> with locked(Path(tempfile.mkdtemp())):
    ...     pass
    """
    file = folder.resolve() / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if fcntl is None or file in _locked:
        yield
        return
    with _flocked(file) as stream:
        stream.truncate(0)
        started = datetime.now().astimezone().isoformat(" ", "seconds")
        stream.write(f"process {os.getpid()} on {socket.gethostname()} since {started}")
        stream.flush()
        _locked.add(file)
        try:
            yield
        finally:
            _locked.discard(file)
            file.unlink(missing_ok=True)


@contextmanager
def _flocked(file: Path) -> Iterator:
    while True:
        with file.open("a+", encoding="utf-8") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                stream.seek(0)
                owner = stream.read() or "another process"
                raise BrainlibError(
                    f"{file.parent} is being written by {owner}: wait until that run has ended, or "
                    "name another output folder"
                ) from error
            # its last owner may have removed the file after we opened it
            if file.exists() and os.path.samestat(os.fstat(stream.fileno()), file.stat()):
                yield stream
                return


def remove_leftovers(*files: Path) -> None:
    """Delete what killed runs of `atomic_write` left beside files; hold the lock for it."""
    for file in files:
        for temporary in file.parent.glob(f".{file.stem}-????????{file.suffix}"):
            temporary.unlink(missing_ok=True)
