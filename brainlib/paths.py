"""Where things lie: the project's root, the cache folder, and writes that are whole or absent."""

import errno
import hashlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from functools import cache
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


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Turn the lack of a package in the block into a `BrainlibError` that names its extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        if str(error.name).startswith("brainlib"):  # a fault of ours, which no package mends
            raise
        raise BrainlibError(
            f"this needs the package {error.name}: pip install '.[{extra}]' in the project folder, "
            f"or the wheel as 'brainlib-….whl[{extra}]'"
        ) from error


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


def absolute(path: Path | str) -> Path:
    """Return `path` as an absolute path, a relative one taken from the project's root."""
    return project_root() / expand(path)


def resolve(path: Path | str) -> Path:
    """Return the same as `absolute`, with all links followed."""
    return absolute(path).resolve()


def expand(path: Path | str) -> Path:
    """Return `path` with `~` as the home folder; `~$a.png`, nobody's home, stays."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 (pathlib raises an error)


def given(path: Path | str) -> Path:
    """Return a path of the user's as an absolute one without `..`."""
    whole = expand(path).absolute()
    return whole.resolve() if ".." in whole.parts else whole


def cache_folder() -> Path:
    """Return the folder of decoded images and phantoms: `BRAINLIB_CACHE`, or one in the home.

    Everything in it can be deleted at any time; it is made again when it is needed.
    """
    chosen = os.environ.get("BRAINLIB_CACHE")
    return resolve(chosen) if chosen else Path.home() / ".cache" / "brainlib"


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def stamp(file: Path) -> bytes:
    """Return name, size and times of a file, which tell of a change; of an absent one the name."""
    try:
        status = file.stat()
    except OSError:
        return repr(str(file)).encode()
    return repr((str(file), status.st_size, status.st_mtime_ns, status.st_ctime_ns)).encode()


class LockedError(BrainlibError):
    """A folder that another process is writing to."""


class WriteError(BrainlibError, OSError):
    """A folder that cannot be written to: it is full, or its owner is somebody else."""


@contextmanager
def write_errors(folder: Path) -> Iterator[None]:
    """Turn every `OSError` of the block into a `WriteError` that names the folder."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        if folder.name.startswith(_SCRATCH):
            folder = folder.parent
        if isinstance(error, FileExistsError | NotADirectoryError):
            raise WriteError(
                f"{folder} is a file, not a folder, or lies below a file: name another folder"
            ) from error
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise WriteError(
            f"{folder} cannot be written to ({error.strerror or error}): "
            f"{'free some space or ' * is_full}name another folder, and run it again; what is done "
            "is kept"
        ) from error


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path of the same name, renamed to `path` once the block has succeeded.

    A run that is killed, a disk that fills up or a loss of power leaves the old file or none, never
    half of one.

    Raises
    ------
    WriteError
        For every `OSError` inside the block.

    Examples
    --------
    >>> target = Path(tempfile.mkdtemp()) / "note.txt"
    >>> with atomic_write(target) as temporary:
    ...     _ = temporary.write_text("whole", encoding="utf-8")
    >>> target.read_text(encoding="utf-8")
    'whole'
    """
    with _temporary(path) as temporary:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)


def write_text(path: Path, text: str) -> Path:
    """Write a text file, whole or not at all; one that holds just this is left as it is."""
    if not path.is_file() or path.read_bytes() != text.encode():
        with atomic_write(path) as temporary:
            temporary.write_bytes(text.encode())
    return path


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Do for a folder, which must be absent or empty, what `atomic_write` does for a file.

    Where another process was faster, its folder stays.
    """
    with _temporary(path) as temporary:
        temporary.mkdir()
        yield temporary
        if not (path.is_dir() and any(path.iterdir())):
            temporary.replace(path)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    with write_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _scratch(path.parent, _SCRATCH) as scratch:
            yield scratch / path.name


@contextmanager
def temporary_folder(prefix: str = "brainlib-scans-") -> Iterator[Path]:
    """Give an empty folder for what no one else may see, deleted in the end.

    What a killed process left in its own is deleted by the next process that needs one.
    """
    with _scratch(Path(tempfile.gettempdir()).resolve(), prefix) as scratch:
        folder = scratch / "files"
        folder.mkdir()
        yield folder


@contextmanager
def _scratch(parent: Path, prefix: str) -> Iterator[Path]:
    _clean_once(parent, prefix)
    with ExitStack() as owned:
        while True:
            scratch = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            owned.callback(shutil.rmtree, scratch, ignore_errors=True)
            with suppress(LockedError):  # another process took it for a leftover
                owned.enter_context(locked(scratch))
                break
        yield scratch


_SCRATCH, _LOCK = ".brainlib-", ".lock"


@cache
def _clean_once(folder: Path, prefix: str) -> None:
    """Delete the temporary folders of killed runs, which are `locked` while a run is at work."""
    if fcntl is None:
        return
    for lock in folder.glob(f"{prefix}*/{_LOCK}"):
        with suppress(LockedError, OSError), _flocked(lock):
            shutil.rmtree(lock.parent, ignore_errors=True)


def _sync(path: Path) -> None:
    """Have the disk write a file, or the names in a folder: a rename does not wait for it."""
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


_locked: set[Path] = set()


@contextmanager
def locked(folder: Path, name: str = _LOCK) -> Iterator[None]:
    """Own a folder until the block ends; the operating system ends the lock of a killed process.

    A block inside another one of the same process and folder changes nothing. Locks of different
    names in a folder do not exclude each other.

    Raises
    ------
    LockedError
        Where another process owns it; the message says which.

    Examples
    --------
    >>> with locked(Path(tempfile.mkdtemp())):
    ...     pass
    """
    file = folder.resolve() / name
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None or file in _locked:
        yield
        return
    with _flocked(file) as stream:
        started = datetime.now().astimezone().isoformat(" ", "seconds")
        owner = f"process {os.getpid()} on {socket.gethostname()} since {started}"
        try:
            with write_errors(folder):
                stream.truncate(0)
                stream.write(owner.encode())
            _locked.add(file)
            yield
        finally:
            _locked.discard(file)
            file.unlink(missing_ok=True)


@contextmanager
def _flocked(file: Path) -> Iterator:
    while True:
        with write_errors(file.parent):
            stream = file.open("ab+", buffering=0)
        with stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                stream.seek(0)
                owner = stream.read().decode() or "another process"
                raise LockedError(
                    f"{file.parent} is being written by {owner}: wait until that run has ended, or "
                    "name another output folder"
                ) from error
            # its last owner may have removed the file after we opened it
            if file.exists() and os.path.samestat(os.fstat(stream.fileno()), file.stat()):
                yield stream
                return
