"""What a request has written so far, in the shapes of OpenAI's API: as a whole, or as the chunks of a stream."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from textgen.generation.generate import Completion
from textgen.generation.streams import Piece, Text
from textgen.serve.models import Served
from textgen.serve.protocol import DONE, CompletionRequest, chat_logprobs, completion_logprobs, event, usage
from textgen.serve.scheduler import Update

PREFIX = {False: "cmpl-", True: "chatcmpl-"}
OBJECT = {False: "text_completion", True: "chat.completion"}


class Answer:
    """What a request has written so far, text by text, as OpenAI's API shows it."""

    def __init__(self, served: Served, asked: CompletionRequest, texts: Sequence[Text], chat: bool, id: str) -> None:
        self.asked, self.chat, self.model = asked, chat, served.writer.model
        self.completions = [text.completion for text in texts]
        self.shown = [0] * len(texts)
        self.head = {
            "id": PREFIX[chat] + id,
            "object": OBJECT[chat],
            "created": int(time.time()),
            "model": served.name,
            "system_fingerprint": f"fp_{self.model.digest[:12]}",
        }

    def text(self, completion: Completion) -> str:
        return (completion.prompt if self.asked.echo else "") + completion.text

    def choice(self, index: int, completion: Completion, extra: Mapping[str, Any]) -> dict[str, Any]:
        """A finished choice."""
        logprobs = None
        if self.asked.logprobs is not None:
            if self.chat:
                logprobs = chat_logprobs(self.model, completion.choices)
            else:
                asked_first = self.asked.echo
                before = completion.prompt_choices if asked_first else []
                begin = len(completion.prompt) if asked_first and not before else 0
                logprobs = completion_logprobs(self.model, [*before, *completion.choices], begin)
        message = {"message": {"role": "assistant", "content": completion.text}}
        content = message if self.chat else {"text": self.text(completion)}
        return {"index": index, **content, "logprobs": logprobs, "finish_reason": completion.finish_reason, **extra}

    def usage(self) -> dict[str, int]:
        return usage(self.completions, len(self.asked.prompts))

    def whole(self, states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The response when everything is written; of every prompt the best `n` texts."""
        best, n = self.asked.best_of, self.asked.n
        chosen: list[int] = []
        for first in range(0, len(self.completions), best):
            ranked = list(range(first, first + best))
            if best > n:
                ranked = sorted(ranked, key=lambda place: -_mean_logprob(self.completions[place]))[:n]
            chosen += ranked
        choices = [self.choice(index, self.completions[place], states[place]) for index, place in enumerate(chosen)]
        alone = states[chosen[0]] if len(chosen) == 1 else {}
        return {**self.head, "choices": choices, "usage": self.usage(), **alone}

    def chunk(self, index: int, text: str, reason: str | None, extra: Mapping[str, Any]) -> bytes:
        """A chunk of a streamed choice."""
        completion = self.completions[index]
        begun, self.shown[index] = self.shown[index], len(completion.choices)
        logprobs = None
        if self.asked.logprobs is not None:
            new = completion.choices[begun:]
            at = len(self.text(completion)) - len(text)
            logprobs = chat_logprobs(self.model, new) if self.chat else completion_logprobs(self.model, new, at)
        content = {"delta": {"content": text}} if self.chat else {"text": text}
        choice = {"index": index, **content, "logprobs": logprobs, "finish_reason": reason, **extra}
        return event({**self._chunk_head(), "choices": [choice], **self._no_usage(), **extra})

    def opening(self) -> bytes:
        """What a stream begins with: the role of a reply, or the prompt if it is to be echoed."""
        parts = []
        for index, completion in enumerate(self.completions):
            if self.chat:
                content: dict[str, Any] = {"delta": {"role": "assistant", "content": ""}}
            elif self.asked.echo:
                content = {"text": completion.prompt}
            else:
                continue
            choice = {"index": index, **content, "logprobs": None, "finish_reason": None}
            parts.append(event({**self._chunk_head(), "choices": [choice], **self._no_usage()}))
        return b"".join(parts)

    def closing(self) -> bytes:
        """What a stream ends with."""
        last = event({**self._chunk_head(), "choices": [], "usage": self.usage()}) if self.asked.include_usage else b""
        return last + DONE

    def _chunk_head(self) -> dict[str, Any]:
        return {**self.head, "object": "chat.completion.chunk"} if self.chat else self.head

    def _no_usage(self) -> dict[str, None]:
        return {"usage": None} if self.asked.include_usage else {}


def _mean_logprob(completion: Completion) -> float:
    values = [choice.logprob or 0.0 for choice in completion.choices]
    return sum(values) / len(values) if values else float("-inf")


def joined(updates: Sequence[Update]) -> list[tuple[int, Piece]]:
    """What several steps added, one piece for each text: a slow client gets few long pieces."""
    pieces: dict[int, Piece] = {}
    for update in updates:
        before = pieces.get(update.index)
        piece = update.piece
        if before is not None:
            piece = replace(piece, text=before.text + piece.text)
        pieces[update.index] = piece
    return list(pieces.items())
