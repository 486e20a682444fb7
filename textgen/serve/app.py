"""The ASGI application: its routes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from textgen.serve import metrics, page
from textgen.serve.access import Keys
from textgen.serve.guard import Guard
from textgen.serve.models import Models
from textgen.serve.openapi import document
from textgen.serve.predict import prediction
from textgen.serve.protocol import RequestError, chat_request, completion_request, ids_of, parsed, usage
from textgen.serve.scheduler import BusyError
from textgen.serve.server import Server
from textgen.serve.settings import Settings
from textgen.serve.states import MOST_LISTED, StoredState
from textgen.serve.writing import Writing, answer


class Api:
    """The routes of a server."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def routes(self) -> list[Route]:
        """Every path."""
        return [
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/predict", self.predict, methods=["POST"]),
            Route("/v1/models", self.models),
            Route("/v1/models/{name:path}", self.model),
            Route("/v1/states", self.read_state, methods=["POST"]),
            Route("/v1/states", self.list_states, methods=["GET"]),
            Route("/v1/states/{id}", self.get_state, methods=["GET"]),
            Route("/v1/states/{id}", self.put_state, methods=["PUT"]),
            Route("/v1/states/{id}", self.delete_state, methods=["DELETE"]),
            Route("/tokenize", self.tokenize, methods=["POST"]),
            Route("/detokenize", self.detokenize, methods=["POST"]),
            Route("/health", self.health),
            Route("/metrics", self.metrics),
            Route("/openapi.json", self.document),
            Route("/", self.page),
        ]

    async def _body(self, request: Request, *known: str) -> Mapping[str, Any]:
        """The fields of a request that has only these; null counts as absent."""
        body = parsed(await self._server.body(request))
        if unknown := next((name for name in body if name not in known), None):
            raise RequestError(f"there is no field {unknown[:80]!r}.", unknown[:80], code="unknown_field")
        if not isinstance(body.get("model"), str | None):
            raise RequestError("model must be text.", "model")
        return {name: value for name, value in body.items() if value is not None}

    async def completions(self, request: Request) -> Response:
        """OpenAI's completions."""
        asked = completion_request(parsed(await self._server.body(request)))
        return await answer(self._server, request, asked, chat=False)

    async def chat(self, request: Request) -> Response:
        """OpenAI's chat completions, for models that complete prompts."""
        asked = chat_request(parsed(await self._server.body(request)))
        return await answer(self._server, request, asked, chat=True)

    async def predict(self, request: Request) -> Response:
        """Labels or forecasts."""
        body = parsed(await self._server.body(request))
        return JSONResponse(await self._server.aside(prediction, self._server.models, body))

    async def models(self, request: Request) -> Response:
        """All models."""
        return JSONResponse({"object": "list", "data": [each.to_json() for each in self._server.models]})

    async def model(self, request: Request) -> Response:
        """A model by name."""
        return JSONResponse(self._server.models.served(request.path_params["name"]).to_json())

    async def tokenize(self, request: Request) -> Response:
        """The token ids of a text."""
        body = await self._body(request, "content", "model")
        tokenizer = self._server.models.language(body.get("model")).writer.model.tokenizer
        try:
            ids = await self._server.aside(tokenizer.encode, _required(body, "content", str))
        except UnicodeEncodeError:
            raise RequestError("content must be UTF-8 text.", "content") from None
        return JSONResponse({"tokens": [int(id) for id in ids]})

    async def detokenize(self, request: Request) -> Response:
        """The text of token ids."""
        body = await self._body(request, "tokens", "model")
        model = self._server.models.language(body.get("model")).writer.model
        tokens = _required(body, "tokens", list)
        if not all(type(each) is int for each in tokens):
            raise RequestError("tokens must be a list of token ids.", "tokens")
        return JSONResponse({"content": model.tokenizer.decode(ids_of(tokens, model))})

    async def health(self, request: Request) -> Response:
        """Whether the server takes requests."""
        if self._server.stopping:
            raise BusyError("the server is stopping.")
        return JSONResponse({"status": "ok"})

    async def metrics(self, request: Request) -> Response:
        """Counters for Prometheus."""
        return Response(self._server.metrics.text(), media_type=metrics.CONTENT_TYPE)

    async def document(self, request: Request) -> Response:
        """The OpenAPI document."""
        return JSONResponse(document())

    async def page(self, request: Request) -> Response:
        """The page for co-writing."""
        return Response(page.content(), headers=page.headers(), media_type="text/html")

    def _reference(self, stored: StoredState) -> dict[str, Any]:
        return {
            "id": stored.id,
            "object": "state",
            "model": self._server.models.name_of(stored.model),
            "created": int(stored.created),
            "used": int(stored.used),
            "bytes": stored.size,
        }

    async def read_state(self, request: Request) -> Response:
        """Read a text and keep the state."""
        body = await self._body(request, "prompt", "model", "state", "seed")
        asked = completion_request({**body, "max_tokens": 0, "return_state": True})
        if len(asked.prompts) != 1:
            raise RequestError("prompt must be one prompt.", "prompt")
        served = self._server.models.language(asked.model)
        writing = await Writing.of(self._server, request, served, asked)
        (state,) = await writing.states(request, 1)
        id, owner = state["state"]["id"], request.state.owner
        stored = await self._server.aside(self._server.store.get, id, owner)
        return JSONResponse({**self._reference(stored), "usage": usage([writing.texts[0].completion], 1)})

    async def list_states(self, request: Request) -> Response:
        """The states of an API key."""
        if not self._server.keys:
            why = "states are listed only for an API key: without keys their ids are secrets."
            raise RequestError(why, status=403, code="needs_api_key")
        limit = request.query_params.get("limit", "100")
        if not (limit.isascii() and limit.isdecimal() and 1 <= int(limit[:9]) <= MOST_LISTED):
            raise RequestError(f"limit must be a whole number from 1 to {MOST_LISTED:,}.", "limit")
        owner, after = request.state.owner, request.query_params.get("after", "")
        found = await self._server.aside(self._server.store.listed, owner, after, int(limit))
        data = [self._reference(each) for each in found]
        return JSONResponse({"object": "list", "data": data, "has_more": len(found) == int(limit)})

    async def get_state(self, request: Request) -> Response:
        """A state file."""
        id, owner = request.path_params["id"], request.state.owner
        stored = await self._server.aside(self._server.store.get, id, owner)
        return Response(stored.content, media_type="application/octet-stream")

    async def put_state(self, request: Request) -> Response:
        """Store a state file."""
        id, owner, store = request.path_params["id"], request.state.owner, self._server.store
        content = await self._server.body(request)
        digest = await self._server.aside(self._server.models.digest_of_state, content)
        await self._server.aside(store.put, content, owner, digest, id)
        return JSONResponse(self._reference(await self._server.aside(store.get, id, owner)))

    async def delete_state(self, request: Request) -> Response:
        """Forget a state."""
        id, owner = request.path_params["id"], request.state.owner
        await self._server.aside(self._server.store.delete, id, owner)
        return JSONResponse({"id": id, "object": "state", "deleted": True})


def _required(body: Mapping[str, Any], name: str, kind: type) -> Any:
    if not isinstance(body.get(name), kind):
        raise RequestError(f"{name} must be {'text' if kind is str else 'a list'}.", name)
    return body[name]


def make_app(models: Models, settings: Settings, keys: Keys) -> Starlette:
    """The application; `app.state.server` is its `Server`."""
    server = Server(models, settings, keys)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        reloading = asyncio.ensure_future(models.keep_fresh(server.aside)) if settings.reload else None
        try:
            yield
        finally:
            if reloading is not None:
                reloading.cancel()
            await asyncio.to_thread(server.close, 0)

    def raised(request: Request, error: Exception) -> Response:
        raise RequestError(f"{error.detail}.", status=error.status_code)  # type: ignore[attr-defined]

    app = Starlette(routes=Api(server).routes(), lifespan=lifespan, exception_handlers={HTTPException: raised})
    app.router.redirect_slashes = False
    app.add_middleware(Guard, settings=settings, keys=keys, metrics=server.metrics)
    app.state.server = server
    return app
