"""One thread that owns the texts being written: `Streams` for each model, joined and left between steps.

Requests submit tickets. A ticket has one text or several, and they enter one at a time, taking turns with those of
other tickets. What a step has written is handed to the event loop of each ticket in one call. A model that was replaced
finishes the texts it has begun.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from textgen.errors import TextgenError
from textgen.generation.generate import EXACT_ROWS
from textgen.generation.language_model import LanguageModel
from textgen.generation.streams import Piece, Streams, Text

CHUNK = 128
"""Tokens of waiting prompts that are read before each step."""
MOST_UNREAD = 256
"""A text is paused while so many of its updates wait for its client, who may not read at all."""
PAUSE = 0.02
"""Seconds between two looks at clients, if every text is paused."""


class BusyError(TextgenError):
    """The queue is full, or the server is stopping."""


@dataclass(frozen=True)
class Update:
    """What a step added to text `index` of a ticket."""

    index: int
    piece: Piece


@dataclass(eq=False)
class Ticket:
    """Texts to write for one request, and what has been written but not yet collected."""

    model: ServedModel
    texts: Sequence[Text]
    loop: asyncio.AbstractEventLoop
    updates: deque[Update] = field(default_factory=deque)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    entered: int = 0
    """How many of its texts have entered."""
    left: int = 0
    """How many of its texts have not ended."""
    cancelled: bool = False
    failure: BaseException | None = None

    def deliver(self, updates: list[Update]) -> None:
        """Called in the event loop: add what was written."""
        self.updates.extend(updates)
        self.left -= sum(update.piece.finish_reason is not None for update in updates)
        self.ready.set()

    def fail(self, error: BaseException) -> None:
        """Called in the event loop: end with an error."""
        self.failure = error
        self.ready.set()

    async def collected(self) -> AsyncIterator[list[Update]]:
        """What is written, as soon as there is anything, until every text has ended. Raises what the scheduler raised,
        and the error of a text from which nothing could be drawn."""
        while self.left or self.updates:
            await self.ready.wait()
            self.ready.clear()
            updates = list(self.updates)
            self.updates.clear()
            if self.failure is not None:
                raise self.failure
            if error := next((each.piece.error for each in updates if each.piece.error is not None), None):
                raise error
            if updates:
                yield updates


class ServedModel:
    """A model with its texts in progress. Only the scheduler's thread touches the texts."""

    def __init__(self, name: str, model: LanguageModel) -> None:
        self.name, self.model = name, model
        self.streams = Streams(model, exact_rows=EXACT_ROWS, chunk=CHUNK)
        self.owners: dict[int, tuple[Ticket, int]] = {}

    def pace(self) -> bool:
        """Pause the texts of clients that do not read, and resume those of clients that do; whether any goes on."""
        slow = {key for key, (ticket, _) in self.owners.items() if len(ticket.updates) >= MOST_UNREAD}
        for key in slow - self.streams.paused:
            self.streams.pause(key)
        for key in self.streams.paused - slow:
            self.streams.resume(key)
        return len(slow) < len(self.streams)

    def step(self) -> list[tuple[Ticket, list[Update]]]:
        """Advance every text by one step; what each ticket gained."""
        gained: dict[Ticket, list[Update]] = {}
        for piece in self.streams.step():
            ended = piece.finish_reason is not None
            ticket, index = self.owners.pop(piece.key) if ended else self.owners[piece.key]
            if piece.text or ended:
                gained.setdefault(ticket, []).append(Update(index, piece))
        return list(gained.items())


class Scheduler:
    """Runs tickets in a thread of its own; all methods may be called from any thread."""

    def __init__(
        self, max_streams: int, max_queue: int, on_step: Callable[[int, float], None] = lambda *_: None
    ) -> None:
        """At most `max_streams` texts are written together, and `max_queue` wait. `on_step` gets the
        texts that each step advanced, and its seconds."""
        self._max_streams, self._max_queue, self._on_step = max_streams, max_queue, on_step
        self._change = threading.Condition()
        self._arrived: deque[Ticket] = deque()
        self._waiting: deque[Ticket] = deque()
        self._queued = 0
        self._active: list[ServedModel] = []
        self._stopping = self._stopped = False
        self._thread = threading.Thread(target=self._run, name="textgen scheduler", daemon=True)
        self._thread.start()

    @property
    def queued(self) -> int:
        """Texts that wait."""
        return self._queued

    @property
    def running(self) -> int:
        """Texts that are being written."""
        return sum(len(each.streams) for each in list(self._active))

    def submit(self, ticket: Ticket) -> None:
        """Add a ticket. Raises BusyError if the queue is full or the scheduler is stopping."""
        with self._change:
            if self._stopping:
                raise BusyError("the server is stopping.")
            if self.running + self._queued + len(ticket.texts) > self._max_streams + self._max_queue:
                raise BusyError(f"the queue is full: {self._queued:,} texts wait.", hint="try again later.")
            ticket.left = len(ticket.texts)
            self._queued += len(ticket.texts)
            self._arrived.append(ticket)
            self._change.notify()

    def cancel(self, ticket: Ticket) -> None:
        """Drop what is left of a ticket; its rows are free from the next step on."""
        with self._change:
            ticket.cancelled = True
            self._change.notify()

    def stop(self, grace: float) -> None:
        """Refuse new tickets, and return when the running ones have ended, or after `grace` seconds."""
        with self._change:
            self._stopping = True
            self._change.notify()
        deadline = time.monotonic() + grace
        while time.monotonic() < deadline and (self.running or self._queued):
            time.sleep(0.02)
        with self._change:
            self._stopped = True
            self._change.notify()
        self._thread.join(5)

    def _run(self) -> None:
        while True:
            with self._change:
                while not (self._arrived or self._waiting or self.running or self._stopped):
                    self._change.wait()
                if self._stopped:
                    return
                self._waiting.extend(self._arrived)
                self._arrived.clear()
            self._drop_cancelled()
            self._admit()
            going = [served for served in self._active if served.pace()]
            for served in going:
                self._advance(served)
            if self._active and not going:
                with self._change:
                    self._change.wait(PAUSE)
            self._active = [served for served in self._active if len(served.streams)]

    def _drop_cancelled(self) -> None:
        for served in self._active:
            for key in [key for key, (ticket, _) in served.owners.items() if ticket.cancelled]:
                served.streams.remove(key)
                del served.owners[key]
        for ticket in [ticket for ticket in self._waiting if ticket.cancelled]:
            self._waiting.remove(ticket)
            self._forget(len(ticket.texts) - ticket.entered)

    def _forget(self, number: int) -> None:
        with self._change:
            self._queued -= number

    def _admit(self) -> None:
        """Let waiting texts in while there is room, one of each ticket in turn."""
        while self._waiting and self.running < self._max_streams:
            ticket = self._waiting.popleft()
            served, index = ticket.model, ticket.entered
            if served not in self._active:
                self._active.append(served)
            served.owners[served.streams.enter(ticket.texts[index])] = ticket, index
            ticket.entered += 1
            self._forget(1)
            if ticket.entered < len(ticket.texts):
                self._waiting.append(ticket)

    def _advance(self, served: ServedModel) -> None:
        rows, began = len(served.streams), time.perf_counter()
        if not rows:
            return
        try:
            gained = served.step()
        except Exception as error:  # an error in the model itself ends all of its texts, and never the server
            tickets = {ticket for ticket, _ in served.owners.values()}
            served.owners.clear()
            served.streams = Streams(served.model, exact_rows=EXACT_ROWS, chunk=CHUNK)
            for ticket in tickets:
                ticket.cancelled = True
                _call(ticket.loop, ticket.fail, error)
            return
        self._on_step(rows, time.perf_counter() - began)
        for loop in {ticket.loop for ticket, _ in gained}:
            _call(loop, _deliver, [each for each in gained if each[0].loop is loop])


def _deliver(gained: list[tuple[Ticket, list[Update]]]) -> None:
    for ticket, updates in gained:
        ticket.deliver(updates)


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: object) -> None:
    """Call a function in an event loop, unless the loop has been closed meanwhile."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(function, *arguments)
