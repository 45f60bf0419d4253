"""The app served through Voilà, on this machine only."""

import logging
import os
import secrets
import socket
import tempfile
import webbrowser
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brainlib import paths
from brainlib.paths import BrainlibError
from brainlib.report.app import LIMIT_VARIABLE

if TYPE_CHECKING:
    from voila.app import Voila

ADDRESS = "127.0.0.1"
UPLOAD_MEGABYTES = 500
IDLE_SECONDS = 3600

_PREFIX = "brainlib-page-"
_TEMPLATE = Path(__file__).parent / "template"
_EXTENSIONS = ["@jupyter-widgets/jupyterlab-manager", "@voila-dashboards/widgets-manager8",
               "anywidget"]  # fmt: skip
_LONGEST_FOLDER = 36  # a socket's path has room for 104 characters on macOS
_MOST_BYTES = (UPLOAD_MEGABYTES + 8) * 1_000_000  # names and headers travel with the files
# widgets are put together with eval and blobs; nothing is fetched from, or sent to, anywhere else
_POLICY = (
    "default-src 'self'; script-src 'self' blob: 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "frame-ancestors 'self'; form-action 'self'; base-uri 'self'"
)

logger = logging.getLogger(__name__)


def serve(
    model: str | None = None, port: int = 8866, open_browser: bool = True, token: str = ""
) -> None:
    """Serve the app on 127.0.0.1 until it is interrupted.

    Each visitor has a kernel of its own, which ends when the page is closed. The address holds a
    token, without which nobody else on this machine can open it. Temporary files lie in one folder
    that is removed at the end.

    Parameters
    ----------
    model : as for `load`
    port : int
        Where it is taken, or 0, another one is chosen; the address is logged.
    open_browser : bool
        Whether to open the page, too.
    token : str
        A random one by default.

    Raises
    ------
    BrainlibError
        Where Voilà is not installed, there is no such port, or none is free.
    """
    with paths.needs_extra("app"):
        import nbformat
        import voila  # noqa: F401
    token = token or secrets.token_urlsafe(24)
    source = f"from brainlib.report import app\napp.open_page({model!r})"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source)],
        metadata={"kernelspec": kernel, "title": "Brain MRI"},
    )
    port = _free_port(port)
    with paths.temporary_folder(_PREFIX) as folder:
        tempfile.tempdir = os.environ["TMPDIR"] = str(folder)  # of this server and of the kernels
        os.environ[LIMIT_VARIABLE] = str(UPLOAD_MEGABYTES)
        file = folder / "brainlib.ipynb"
        nbformat.write(notebook, file)
        app = _make_app(file, port, token)
        from tornado.ioloop import IOLoop

        def announce() -> None:
            url = f"http://{ADDRESS}:{port}/?token={token}"
            logger.info("the page is at %s (end it with Ctrl-C)", url)
            if open_browser:
                webbrowser.open(url)

        IOLoop.current().add_callback(announce)
        app.start()


def _make_app(file: Path, port: int, token: str) -> "Voila":
    from jupyter_server.auth.identity import PasswordIdentityProvider
    from traitlets.config import Config
    from voila.app import Voila

    class Guard(PasswordIdentityProvider):
        """Looks where a request comes from, even of one that has the token."""

        def should_check_origin(self, handler: object) -> bool:
            return True

        async def get_user(self, handler: Any) -> Any:
            handler.current_user = user = await self._get_user(handler)
            # the cookie by which the page ends its kernel; reading it sets it
            return user and handler.xsrf_token and user

    class App(Voila):
        """Voilà that takes uploads in one piece; its own server ends at 100 MB."""

        def listen(self) -> None:
            self.app.listen = partial(self.app.listen, max_buffer_size=_MOST_BYTES)
            super().listen()

    idle = {"cull_idle_timeout": IDLE_SECONDS, "cull_connected": False}
    config = Config(MappingKernelManager=idle)
    # others on this machine can listen to a kernel's TCP ports, and not to sockets in our folder
    if os.name == "posix" and len(tempfile.gettempdir()) <= _LONGEST_FOLDER:
        config.KernelManager.transport = "ipc"
    app = App(
        config=config, ip=ADDRESS, port=port, token=token, open_browser=False, config_file_paths=[],
        notebook_path=str(file), log_level=logging.ERROR, identity_provider_class=Guard,
    )  # fmt: skip
    app.initialize([])
    app.template_paths.insert(0, str(_TEMPLATE))
    app.tornado_settings = {
        "websocket_max_message_size": _MOST_BYTES,
        # ms; Jupyter's own timeout is longer than its interval, of which Tornado complains
        "ws_ping_interval": 90_000,
        "ws_ping_timeout": 90_000,
        "headers": {"Content-Security-Policy": _POLICY, "Referrer-Policy": "same-origin"},
    }
    chosen = app.voila_configuration
    chosen.allow_template_override = chosen.allow_theme_override = "NO"
    chosen.file_allowlist = []  # no file beside the notebook is served
    chosen.extension_allowlist = _EXTENSIONS
    return app


def _free_port(port: int) -> int:
    """Return a port that is free: the one that is asked for where it can be had."""
    if port not in range(65536):
        raise BrainlibError(f"there is no port {port}: name one from 0 to 65535")
    for wanted in (port, 0):
        with suppress(OSError), socket.create_server((ADDRESS, wanted)) as probe:
            return probe.getsockname()[1]
        logger.warning("port %d is taken: another one is used", port)
    raise BrainlibError(f"no port is free on {ADDRESS}: end another program first")
