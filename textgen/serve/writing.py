"""Answers to requests for text: prepared, written by the scheduler, sent whole or as a stream of events, and given up
when the client leaves."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from textgen.errors import TextgenError
from textgen.generation.streams import Text
from textgen.serve.answers import Answer, joined
from textgen.serve.guard import as_request_error
from textgen.serve.models import Served
from textgen.serve.protocol import CompletionRequest, RequestError, event, usage
from textgen.serve.scheduler import Ticket
from textgen.serve.server import Server


@dataclass(frozen=True)
class Part:
    """What was added to text `index`; at its end with the finish reason and the reference to its state."""

    index: int
    text: str
    reason: str | None
    state: Mapping[str, Any]


class Writing:
    """The texts of one request."""

    def __init__(self, server: Server, owner: str, served: Served, texts: list[Text]) -> None:
        self._server, self._owner, self._served, self._texts = server, owner, served, texts
        self._began = time.perf_counter()
        self._ticket = Ticket(served.writer, texts, asyncio.get_running_loop())
        server.scheduler.submit(self._ticket)

    @classmethod
    async def of(cls, server: Server, request: Request, served: Served, asked: CompletionRequest) -> Writing:
        """Prepare the texts of a request and submit them. Raises RequestError, and BusyError if the queue is full."""
        owner = request.state.owner
        session = None if asked.state is None else await server.session(asked.state, owner, served)
        return cls(server, owner, served, await server.aside(server.prepared, served, asked, session))

    @property
    def texts(self) -> list[Text]:
        """The texts, which grow."""
        return self._texts

    async def parts(self, prompts: int) -> AsyncIterator[Part]:
        """What is written, as it is written. In the end tokens are counted (`prompts` is how many prompts there are),
        and what is not collected is cancelled. Raises RequestError if it takes too long."""
        limit, first = self._server.settings.request_timeout, True
        try:
            async with asyncio.timeout(limit):
                async for updates in self._ticket.collected():
                    if first:
                        first = False
                        self._server.metrics.first.observe(time.perf_counter() - self._began)
                    for index, piece in joined(updates):
                        state = await self._server.kept(piece.session, self._owner)
                        yield Part(index, piece.text, piece.finish_reason, state)
        except TimeoutError:
            raise RequestError(f"the answer took longer than {limit:g} seconds.", status=408) from None
        finally:
            self._server.scheduler.cancel(self._ticket)
            total = usage([text.completion for text in self._texts], prompts)
            self._server.metrics.read.labels(self._served.name).inc(total["prompt_tokens"])
            self._server.metrics.written.labels(self._served.name).inc(total["completion_tokens"])

    async def states(self, request: Request, prompts: int) -> list[Mapping[str, Any]]:
        """Write everything; the reference to the state of each text, empty where none is kept. Raises ClientDisconnect
        if the client leaves before."""
        states: list[Mapping[str, Any]] = [{} for _ in self._texts]

        async def collect() -> None:
            async for part in self.parts(prompts):
                if part.reason is not None:
                    states[part.index] = part.state

        await unless_gone(request, collect())
        return states


async def answer(server: Server, request: Request, asked: CompletionRequest, chat: bool) -> Response:
    """Write what a request asks for, whole or as a stream."""
    served = server.models.language(asked.model)
    if chat and not served.writer.model.prompt_end:
        raise RequestError(
            f"the model {served.name!r} continues texts and does not answer messages: use /v1/completions.", "model"
        )
    writing = await Writing.of(server, request, served, asked)
    shown = Answer(served, asked, writing.texts, chat, server.models.new_id())
    if asked.stream:
        return EventStream(_events(writing, shown, len(asked.prompts)))
    return JSONResponse(shown.whole(await writing.states(request, len(asked.prompts))))


async def _events(writing: Writing, shown: Answer, prompts: int) -> AsyncIterator[bytes]:
    """The events of a streamed answer. An error is the last one."""
    if opening := shown.opening():
        yield opening
    parts = writing.parts(prompts)
    try:
        async for part in parts:
            yield shown.chunk(part.index, part.text, part.reason, part.state)
        yield shown.closing()
    except TextgenError as error:
        yield event(as_request_error(error).to_json())
    finally:
        await parts.aclose()  # type: ignore[attr-defined]  # frees its rows at once


async def unless_gone(request: Request, work: Awaitable[None]) -> None:
    """Do some work, unless the client leaves before. Raises ClientDisconnect then."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(request.receive))
    try:
        await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        await working
    finally:
        for task in (working, leaving):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await working


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """A stream of server-sent events that ends when its client leaves."""

    def __init__(self, events: AsyncIterator[bytes]) -> None:
        super().__init__(media_type="text/event-stream", headers={"cache-control": "no-cache"})
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent() -> None:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for chunk in self._events:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        sending, leaving = asyncio.ensure_future(sent()), asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait([sending, leaving], return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            sending.cancel()
            leaving.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await sending
            await self._events.aclose()  # type: ignore[attr-defined]
