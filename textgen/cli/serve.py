"""textgen serve: an HTTP server for models."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from textgen.cli.model_folders import model_folder
from textgen.cli.params import backend_option, given, options_of, threads_option
from textgen.errors import TextgenError, UsageError
from textgen.options import from_mapping, named
from textgen.screen import Output, say
from textgen.serve import with_model_names
from textgen.serve.settings import VARIABLE, Settings
from textgen.threads import usable_cores, use_threads

if TYPE_CHECKING:
    from starlette.applications import Starlette


@click.command("serve")
@click.argument("models", nargs=-1)
@backend_option
@threads_option
@options_of(Settings)
def command(models: tuple[str, ...], backend: str, threads: int | None, **values: Any) -> int:
    """Serve MODELS (folders, runs, installed models, NAME=FOLDER; by default the latest run) over HTTP, as OpenAI's API
    does, with states that a response leaves behind and another request continues.

    Needs pip install 'textgen-lm[serve]'. Documentation: docs/serving.md.
    """
    settings: Settings = from_mapping(Settings, given(Settings, values))
    app = _app(models, settings, backend, threads)
    return _run(app, settings)


def _app(models: tuple[str, ...], settings: Settings, backend: str, threads: int | None) -> Starlette:
    """The application. Raises UsageError for an address that others reach, without an API key."""
    from textgen.serve import create_app
    from textgen.serve.access import is_loopback

    named_ones = with_model_names(models)
    if isinstance(named_ones, dict):
        chosen: Any = {name: model_folder(each) for name, each in named_ones.items()}
    else:
        folders = [model_folder(each) for each in named_ones]  # raises for a name that is almost right
        chosen = named_ones if folders else [model_folder(None)]
    use_threads(threads or usable_cores())
    app = create_app(chosen, backend, **asdict(settings))
    if not is_loopback(settings.host) and not app.state.server.keys:
        raise UsageError(
            f"{named('host', settings.host)} needs an API key, since others reach it.",
            hint=f"{named('api_key_file', 'FILE')}, or set {VARIABLE}.",
        )
    return app


def _run(app: Starlette, settings: Settings) -> int:
    import uvicorn

    from textgen.serve.connections import Connection

    class Server(uvicorn.Server):
        """Says where it listens, and stops at once on a second signal of any kind."""

        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.started:
                port = self.servers[0].sockets[0].getsockname()[1]
                host = f"[{settings.host}]" if ":" in settings.host else settings.host
                names = ", ".join(served.name for served in app.state.server.models)
                say(f"Serving {names} (Ctrl-C stops).")
                Output().write(f"http://{host}:{port}\n")
                sys.stdout.flush()

        def handle_exit(self, sig: int, frame: Any) -> None:
            self.force_exit = self.force_exit or self.should_exit
            super().handle_exit(sig, frame)

    config = uvicorn.Config(
        app,
        http=Connection,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=max(1, round(settings.grace)),
        timeout_keep_alive=30,
        server_header=False,
    )
    server = Server(config)
    fastest = config.get_loop_factory()  # uvloop, where it is installed
    with _listening(settings.host, settings.port) as sock, asyncio.Runner(loop_factory=fastest) as runner:
        runner.run(server.serve([sock]))
    return 0 if server.started else 1


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens at an address. Raises TextgenError if it cannot."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        hint = f"{named('port', 0)} takes any free one." if getattr(error, "errno", 0) == errno.EADDRINUSE else None
        reason = getattr(error, "strerror", None) or error
        raise TextgenError(f"the server cannot listen at {host} port {port}: {reason}.", hint=hint) from None
