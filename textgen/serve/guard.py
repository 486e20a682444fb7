"""The layer around all routes: refuses whoever may not use the server, shows errors, and counts requests."""

from __future__ import annotations

import logging

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from textgen.errors import TextgenError
from textgen.serve.access import Keys, is_foreign
from textgen.serve.metrics import Metrics
from textgen.serve.protocol import RequestError
from textgen.serve.scheduler import BusyError
from textgen.serve.settings import Settings
from textgen.serve.states import NoStateError, StoreError

LOG = logging.getLogger("textgen.serve")
RETRY_SECONDS = 1


def as_request_error(error: Exception) -> RequestError:
    """An error as the API shows it."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, BusyError):
        return RequestError(str(error), status=503, code="overloaded", type="server_error")
    if isinstance(error, StoreError):
        return RequestError(str(error), status=503, code="states_not_stored", type="server_error")
    if isinstance(error, NoStateError):
        return RequestError(str(error), "state", 404, "state_not_found")
    if isinstance(error, TextgenError):
        return RequestError(str(error))
    return RequestError("internal error.", status=500, type="server_error")


class Guard:
    """Wraps the routes: refuses whoever may not use the server, names errors in OpenAI's shape, and counts requests."""

    OPEN = ("/health", "/")
    """Paths that need no key; they show nothing of anybody's."""

    def __init__(self, app: ASGIApp, settings: Settings, keys: Keys, metrics: Metrics) -> None:
        self._app, self._settings, self._keys, self._metrics = app, settings, keys, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request, status = Request(scope), 500
        begun = False

        async def counted(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                status, begun = message["status"], True
                message["headers"] = [*message["headers"], *self._cross_origin(request)]
            await send(message)

        try:
            await self._entered(request, scope, receive, counted)
        except ClientDisconnect:
            status = 499
        except Exception as error:
            known = as_request_error(error)
            if known.status == 500:
                LOG.exception("a request failed")
            if not begun:
                await self._refusal(known)(scope, receive, counted)
        finally:
            route = scope.get("route")
            self._metrics.requests.labels(getattr(route, "path", "other"), str(status)).inc()

    async def _entered(self, request: Request, scope: Scope, receive: Receive, send: Send) -> None:
        settings, headers = self._settings, request.headers
        origin = headers.get("origin")
        scope.setdefault("state", {})
        if self._keys:
            owner = self._keys.owner(headers.get("authorization"))
            preflight = request.method == "OPTIONS" and origin in settings.cors_origin
            if owner is None and not preflight and request.url.path not in self.OPEN:
                raise RequestError(
                    "the API key is missing or wrong: Authorization: Bearer KEY.", status=401, code="invalid_api_key"
                )
            scope["state"]["owner"] = owner or ""
        else:
            if is_foreign(headers.get("host"), origin, settings.cors_origin):
                raise RequestError(
                    "without an API key only this machine is answered: the Host or Origin header names another.",
                    status=403,
                    code="foreign_origin",
                )
            scope["state"]["owner"] = ""
        if request.method == "OPTIONS" and origin in settings.cors_origin:
            await Response(status_code=204)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _cross_origin(self, request: Request) -> list[tuple[bytes, bytes]]:
        origin = request.headers.get("origin")
        if origin is None or origin not in self._settings.cors_origin:
            return []
        allowed = {
            "access-control-allow-origin": origin,
            "access-control-allow-headers": "authorization, content-type",
            "access-control-allow-methods": "GET, POST, PUT, DELETE, OPTIONS",
            "vary": "origin",
        }
        return [(name.encode(), value.encode("latin-1")) for name, value in allowed.items()]

    @staticmethod
    def _refusal(error: RequestError) -> Response:
        headers = {"retry-after": str(RETRY_SECONDS)} if error.status == 503 else {}
        if error.status == 401:
            headers["www-authenticate"] = "Bearer"
        return JSONResponse(error.to_json(), error.status, headers)
