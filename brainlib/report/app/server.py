"""The notebook `04_infer` as a page: Voilà, on this machine only."""

import logging
import os
import secrets
import socket
import tempfile
import webbrowser
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brainlib import paths
from brainlib.report.app.uploads import LIMIT_VARIABLE, PageError

if TYPE_CHECKING:
    import nbformat
    from voila.app import Voila

NOTEBOOK = "notebooks/04_infer.ipynb"
TAG = "page"
"""The tag of the cells that a visitor sees; the parameters are kept too, and run."""

ADDRESS = "127.0.0.1"
PORT = 8866
UPLOAD_MEGABYTES = 500
IDLE_SECONDS = 3600

_TEMPLATE = Path(__file__).parent / "template"
_EXTENSIONS = ("@jupyter-widgets/jupyterlab-manager", "@voila-dashboards/widgets-manager8")
_LONGEST_FOLDER = 36  # a socket's path has room for 104 characters on macOS
_OVERHEAD_MEGABYTES = 8  # names and headers travel with the files
# widgets are put together with eval; nothing is fetched from, or sent to, anywhere else
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "frame-ancestors 'self'; form-action 'self'; base-uri 'self'"
)

logger = logging.getLogger(__name__)


def serve(
    notebook: Path | str = NOTEBOOK,
    port: int = PORT,
    open_browser: bool = True,
    parameters: dict[str, Any] | None = None,
    token: str | None = None,
) -> None:
    """Serve the page on 127.0.0.1 until it is interrupted.

    Each visitor has a kernel of its own, which ends when the page is closed. The address holds a
    token, without which nobody else on this machine can open it. Temporary files lie in one folder
    that is removed at the end.

    Parameters
    ----------
    notebook : path
    port : int
        Where it is taken, or 0, another one is chosen; the address is logged.
    open_browser : bool
        Whether to open the page, too.
    parameters : dict, optional
        Of the notebook, such as `model`.
    token : str, optional
        A random one if it is left out.

    Raises
    ------
    PageError
        Where Voilà is not installed, or the notebook is not there or has no cell for the page.
    """
    file = paths.resolve(notebook)
    _require_page(file)
    token = token or secrets.token_urlsafe(24)
    port = _free_port(port)
    app = _make_app(file, port, token, parameters or {})
    url = f"http://{ADDRESS}:{port}/?token={token}"
    from tornado.ioloop import IOLoop

    with tempfile.TemporaryDirectory(prefix="brainlib-page-") as folder:
        os.environ["TMPDIR"] = folder  # of the kernels
        os.environ[LIMIT_VARIABLE] = str(UPLOAD_MEGABYTES)
        IOLoop.current().add_callback(_announce, url, open_browser)
        app.start()


def page_cells(
    notebook: "nbformat.NotebookNode", parameters: dict[str, Any] | None = None
) -> "nbformat.NotebookNode":
    """Return what of a notebook is the page: its parameters, and the cells tagged `page`.

    Parameters
    ----------
    notebook : NotebookNode
    parameters : dict, optional
        Set after the notebook's own, as papermill would.

    Raises
    ------
    PageError
        Where no cell has the tag.
    """
    import nbformat

    kept = [cell for cell in notebook.cells if {"parameters", TAG} & set(_tags(cell))]
    if not any(TAG in _tags(cell) for cell in kept):
        raise PageError(f"no cell of the notebook has the tag {TAG!r}: give it to those to show")
    given = [f"{name} = {value!r}" for name, value in (parameters or {}).items()]
    # the notebook's own imports load what only its tables and figures need
    start = nbformat.v4.new_code_cell("\n".join(["from brainlib.report import app", *given]))
    first = next((i for i, cell in enumerate(kept) if TAG in _tags(cell)), 0)
    made = nbformat.v4.new_notebook(metadata=notebook.metadata)
    made.cells = [*kept[:first], start, *kept[first:]]
    made.metadata["title"] = "Brain MRI"
    return made


def _tags(cell: "nbformat.NotebookNode") -> list[str]:
    return cell.metadata.get("tags", [])


def _require_page(file: Path) -> None:
    try:
        import nbformat
        import voila  # noqa: F401
    except ImportError as error:
        raise PageError("the page needs Voilà: `pip install 'brainlib[app]'`") from error
    if not file.is_file():
        raise PageError(f"there is no notebook {file}: name another")
    page_cells(nbformat.read(file, as_version=4))


def _make_app(file: Path, port: int, token: str, parameters: dict[str, Any]) -> "Voila":
    from traitlets.config import Config
    from voila.app import Voila

    class App(Voila):
        """Voilà that takes uploads in one piece; its own server ends at 100 MB."""

        def listen(self) -> None:
            self.app.listen = partial(self.app.listen, max_buffer_size=_upload_bytes())
            super().listen()

    def choose_cells(handler: Any, notebook: Any, cwd: str) -> Any:
        return page_cells(notebook, parameters)

    config = Config()
    config.MappingKernelManager.cull_idle_timeout = IDLE_SECONDS
    config.MappingKernelManager.cull_connected = False
    # others on this machine can listen to a kernel's TCP ports, and not to sockets in our folder
    if os.name == "posix" and len(tempfile.gettempdir()) <= _LONGEST_FOLDER:
        config.KernelManager.transport = "ipc"
    app = App(
        config=config, ip=ADDRESS, port=port, token=token, open_browser=False, config_file_paths=[],
        notebook_path=str(file), log_level=logging.ERROR,
    )  # fmt: skip
    app.initialize([])
    app.template_paths.insert(0, str(_TEMPLATE))
    app.tornado_settings = {
        "websocket_max_message_size": _upload_bytes(),
        "headers": {"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer"},
    }
    chosen = app.voila_configuration
    chosen.prelaunch_hook = choose_cells
    chosen.allow_template_override = chosen.allow_theme_override = "NO"
    chosen.file_allowlist = []  # no file beside the notebook is served
    chosen.extension_allowlist = list(_EXTENSIONS)
    return app


def _upload_bytes() -> int:
    return (UPLOAD_MEGABYTES + _OVERHEAD_MEGABYTES) * 1_000_000


def _free_port(port: int) -> int:
    """Return a port that is free: the one that is asked for where it can be had."""
    for wanted in (port, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((ADDRESS, wanted))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise PageError(f"no port is free on {ADDRESS}: end another program first")


def _announce(url: str, open_browser: bool) -> None:
    logger.info("the page is at %s (end it with Ctrl-C)", url)
    if open_browser:
        webbrowser.open(url)
