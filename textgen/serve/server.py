"""What the routes share: the models, the scheduler, the stored states, and threads for work that takes long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from starlette.requests import Request

from textgen.errors import UsageError
from textgen.generation.session import Session
from textgen.generation.streams import Text
from textgen.serve.access import Keys
from textgen.serve.metrics import Metrics
from textgen.serve.models import Models, Served
from textgen.serve.protocol import CompletionRequest, RequestError, ids_of
from textgen.serve.scheduler import Scheduler
from textgen.serve.settings import Settings
from textgen.serve.states import StateStore

Result = TypeVar("Result")


class Server:
    """A server without its routes."""

    def __init__(self, models: Models, settings: Settings, keys: Keys) -> None:
        self.models, self.settings, self.keys = models, settings, keys
        folder = None if settings.states_dir is None else Path(settings.states_dir)
        self.store = StateStore(folder, settings.states_bytes)
        self.scheduler = Scheduler(settings.max_streams, settings.max_queue, lambda *step: self.metrics.stepped(*step))
        self.metrics = Metrics(lambda: self.scheduler.queued, lambda: self.scheduler.running, lambda: self.store.size)
        self._threads = ThreadPoolExecutor(2, "textgen requests")
        self.stopping = False

    def close(self, grace: float | None = None) -> None:
        """Finish running requests within `grace` seconds, and stop."""
        self.stopping = True
        self.scheduler.stop(self.settings.grace if grace is None else grace)
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.store.close()

    async def aside(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call a function in another thread, so that no other request waits for it."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(function, *arguments))

    async def body(self, request: Request, most: int | None = None) -> bytes:
        """The body of a request. Raises RequestError if it is too large or does not arrive in time."""
        most, parts, size = most or self.settings.max_body_bytes, [], 0
        try:
            async with asyncio.timeout(self.settings.request_timeout):
                async for part in request.stream():
                    size += len(part)
                    if size > most:
                        raise RequestError(f"the body is larger than {most:,} bytes.", status=413)
                    parts.append(part)
        except TimeoutError:
            raise RequestError("the body did not arrive in time.", status=408) from None
        return b"".join(parts)

    # --- texts ---

    def prepared(self, served: Served, asked: CompletionRequest, session: Session | None) -> list[Text]:
        """The texts of a request, ready to be written. Raises RequestError for a wrong option."""
        writer, texts = served.writer, []
        scored = asked.logprobs if asked.echo else None
        options = dict(asked.sampling)
        seed = options.pop("seed", None)
        wanted = 0 if asked.logprobs is None and asked.best_of > asked.n else asked.logprobs
        for number, prompt in enumerate(asked.prompts):
            content = prompt if isinstance(prompt, str) else ids_of(prompt, writer.model)
            if _bytes(content) > self.settings.max_prompt_bytes:
                raise RequestError(f"a prompt may have {self.settings.max_prompt_bytes:,} bytes at most.", "prompt")
            for k in range(asked.best_of):
                place = number * asked.best_of + k
                own: dict[str, Any] = {} if seed is None else {"seed": seed + place if type(seed) is int else seed}
                if session is not None and seed is None and place:
                    own = {"seed": session.fork().seed}  # several continuations of one state must differ
                try:
                    text = writer.streams.prepare(
                        content, session, asked.return_state, scored, logprobs=wanted, **options, **own
                    )
                except UsageError as error:
                    raise RequestError(str(error), _field(str(error), {*options, "seed", "prompt"})) from None
                texts.append(text)
        return texts

    async def session(self, id: str, owner: str, served: Served) -> Session:
        """The session of a stored state. Raises NoStateError if it does not exist, and RequestError (409) if
        another model made it."""
        stored = await self.aside(self.store.get, id, owner)
        if stored.model != served.writer.model.digest:
            why = f"the state {id!r} belongs to another model, or to this one before it changed."
            raise RequestError(why, "state", 409, "state_of_another_model")
        return await self.aside(Session.from_bytes, served.writer.model, stored.content, f"state {id}")

    async def kept(self, session: Session | None, owner: str) -> dict[str, Any]:
        """The reference to a session, stored."""
        if session is None:
            return {}
        content = await self.aside(session.to_bytes)
        return {"state": {"id": await self.aside(self.store.put, content, owner, session.model.digest)}}


def _bytes(prompt: Any) -> int:
    """The size of a prompt, text or token ids. Raises RequestError for text with half a character."""
    try:
        return len(prompt.encode()) if isinstance(prompt, str) else int(prompt.nbytes)
    except UnicodeEncodeError:
        raise RequestError("prompt must be UTF-8 text, without lone surrogates.", "prompt") from None


def _field(message: str, fields: set[str]) -> str | None:
    """The field that a message about an option begins with."""
    word = message.replace("=", " ").split()[0]
    names = {"max_new_tokens": "max_tokens"}
    return names.get(word, word) if word in fields else None
