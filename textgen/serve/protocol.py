"""Requests and responses in the shapes of OpenAI's API, with every sampling option of textgen under its own name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from textgen import storage
from textgen.errors import TextgenError, did_you_mean
from textgen.generation import CONSTRAINTS, SampleOptions
from textgen.generation.generate import Completion
from textgen.generation.language_model import LanguageModel
from textgen.generation.sampling import Choice

DEFAULT_TOKENS = 16
MOST_TOKENS = 1_000_000
MOST_TEXTS = 128
"""The most prompts, and the most texts, of one request."""
MOST_STOPS, LONGEST_STOP = 64, 1000
MOST_LOGPROBS = 100

SAMPLING = {f.name for f in fields(SampleOptions)} - {"num_beams", "logprobs", "max_new_tokens"}
COMMON = {
    *("model", "max_tokens", "max_new_tokens", "n", "stream", "stream_options", "user", "state", "return_state"),
    *("response_format", *SAMPLING),
}
COMPLETION = COMMON | {"prompt", "best_of", "echo", "logprobs"}
CHAT = COMMON | {"messages", "max_completion_tokens", "logprobs", "top_logprobs"}


class RequestError(TextgenError):
    """A request that cannot be served: the HTTP status, the field that is wrong, and OpenAI's type and code."""

    def __init__(
        self,
        message: str,
        param: str | None = None,
        status: int = 400,
        code: str | None = None,
        type: str = "invalid_request_error",
    ) -> None:
        super().__init__(message)
        self.param, self.status, self.code, self.type = param, status, code, type

    def to_json(self) -> dict[str, Any]:
        """The body of the response."""
        return {"error": {"message": str(self), "type": self.type, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class CompletionRequest:
    """What to write: one text for each prompt and each number up to `best_of`, of which the best `n` are returned."""

    model: str | None
    prompts: Sequence[str | Sequence[int]]
    n: int = 1
    best_of: int = 1
    stream: bool = False
    include_usage: bool = False
    echo: bool = False
    logprobs: int | None = None
    state: str | None = None
    return_state: bool = False
    sampling: Mapping[str, Any] = field(default_factory=dict)


def parsed(body: bytes) -> dict[str, Any]:
    """The JSON object of a request's body. Raises RequestError."""
    try:
        return storage.parse_json(body, "the body")
    except TextgenError as error:
        reason = str(error).removeprefix("the body is damaged: ")
        raise RequestError(f"the body must be a JSON object: {reason}") from None


def completion_request(body: Mapping[str, Any]) -> CompletionRequest:
    """The request of /v1/completions. Raises RequestError with the field that is wrong."""
    given = _given(body, COMPLETION)
    prompts = _prompts(given.get("prompt", ""))
    n = _whole(given, "n", 1, MOST_TEXTS, 1)
    best_of = _whole(given, "best_of", n, MOST_TEXTS, n)
    if len(prompts) * best_of > MOST_TEXTS:
        raise RequestError(f"a request may ask for {MOST_TEXTS} texts at most, not {len(prompts) * best_of:,}.", "n")
    stream = _flag(given, "stream")
    if stream and best_of > n:
        raise RequestError("best_of cannot be streamed, since the best text is known only at the end.", "best_of")
    logprobs = _whole(given, "logprobs", 0, MOST_LOGPROBS, None)
    return CompletionRequest(
        prompts=prompts,
        n=n,
        best_of=best_of,
        stream=stream,
        echo=_flag(given, "echo"),
        logprobs=logprobs,
        sampling=_sampling(given, "max_tokens"),
        **_common(given),
    )


def chat_request(body: Mapping[str, Any]) -> CompletionRequest:
    """The request of /v1/chat/completions: the last message of the user is the prompt. Raises RequestError."""
    given = _given(body, CHAT)
    messages = given.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError("messages must be a list of messages.", "messages")
    texts = [_content(message) for message in messages if isinstance(message, dict) and message.get("role") == "user"]
    if len(texts) == 0 or not all(isinstance(message, dict) for message in messages):
        raise RequestError("messages must hold objects, and one of the role 'user'.", "messages")
    n = _whole(given, "n", 1, MOST_TEXTS, 1)
    top = _whole(given, "top_logprobs", 0, MOST_LOGPROBS, 0)
    if "max_completion_tokens" in given:
        given["max_tokens"] = given.pop("max_completion_tokens")
    return CompletionRequest(
        prompts=[texts[-1]],
        n=n,
        best_of=n,
        stream=_flag(given, "stream"),
        logprobs=top if _flag(given, "logprobs") else None,
        sampling=_sampling(given, "max_tokens"),
        **_common(given),
    )


def _given(body: Mapping[str, Any], known: set[str]) -> dict[str, Any]:
    """The fields that are given; null counts as absent. Raises RequestError for an unknown one."""
    for name in body:
        if name not in known:
            near = did_you_mean(name[:80], known)
            raise RequestError(f"there is no field {name[:80]!r}.{near}", name[:80], code="unknown_field")
    return {name: value for name, value in body.items() if value is not None}


def _common(given: Mapping[str, Any]) -> dict[str, Any]:
    _text(given, "user")  # read by nobody, and checked like everything else
    include = given.get("stream_options", {})
    if not isinstance(include, dict) or set(include) - {"include_usage"}:
        raise RequestError("stream_options must be an object with include_usage.", "stream_options")
    return {
        "model": _text(given, "model"),
        "include_usage": _flag(include, "include_usage"),
        "state": _text(given, "state"),
        "return_state": _flag(given, "return_state"),
    }


def _sampling(given: Mapping[str, Any], length: str) -> dict[str, Any]:
    """The sampling options; their values are checked where the model's own defaults are known."""
    name = "max_new_tokens" if "max_new_tokens" in given else length
    options = {name: value for name, value in given.items() if name in SAMPLING}
    options["max_new_tokens"] = _whole(given, name, 0, MOST_TOKENS, DEFAULT_TOKENS)
    stop = options.get("stop", [])
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or len(stops) > MOST_STOPS or not all(isinstance(each, str) for each in stops):
        raise RequestError(f"stop must be a text or a list of at most {MOST_STOPS} texts.", "stop")
    if any(len(each) > LONGEST_STOP for each in stops):
        raise RequestError(f"a stop text may have {LONGEST_STOP:,} characters at most.", "stop")
    options["stop"] = stops
    for name, text in {**_format(given.get("response_format", {})), **_constraints(options)}.items():
        options[name] = text
    biases = options.get("logit_bias", {})
    if not isinstance(biases, dict):
        raise RequestError("logit_bias must be an object from token ids to numbers.", "logit_bias")
    are_ids = {key: key.isascii() and key.isdecimal() and len(key) < 10 for key in biases}
    options["logit_bias"] = {int(key) if are_ids[key] else key: bias for key, bias in biases.items()}
    return options


def _format(given: Any) -> dict[str, str]:
    """The constraint that a response format stands for, empty for plain text. Raises RequestError."""
    kind = given.get("type", "text") if isinstance(given, dict) else None
    if kind == "text":
        return {}
    if kind == "json_object":
        return {"json_schema": '{"type": "object"}'}
    schema = given.get("json_schema") if kind == "json_schema" else None
    if not isinstance(schema, dict) or not isinstance(schema.get("schema"), dict):
        why = "its type must be text, json_object, or json_schema with json_schema.schema."
        raise RequestError(f"response_format cannot be used: {why}", "response_format")
    return {"json_schema": json.dumps(schema["schema"])}


def _constraints(options: Mapping[str, Any]) -> dict[str, str]:
    """The constraints of a request as texts; a schema may also be an object."""
    given = {name: options[name] for name in CONSTRAINTS if name in options}
    if isinstance(given.get("json_schema"), dict):
        given["json_schema"] = json.dumps(given["json_schema"])
    wrong = next((name for name, text in given.items() if not isinstance(text, str)), None)
    if wrong is not None:
        raise RequestError(f"{wrong} must be a text.", wrong)
    return given


def _prompts(prompt: Any) -> list[str | Sequence[int]]:
    """One prompt or several, each a text or token ids."""
    whole = isinstance(prompt, list) and bool(prompt) and all(type(each) is int for each in prompt)
    several = prompt if isinstance(prompt, list) and not whole else [prompt]
    if not several or len(several) > MOST_TEXTS:
        raise RequestError(f"prompt must hold from 1 to {MOST_TEXTS} prompts, not {len(several):,}.", "prompt")
    for each in several:
        are_ids = isinstance(each, list) and all(type(id) is int for id in each)
        if not isinstance(each, str) and not are_ids:
            raise RequestError("prompt must be a text, a list of token ids, or a list of these.", "prompt")
    return several


def ids_of(prompt: Sequence[int], model: LanguageModel) -> Any:
    """The token ids of a prompt as an array. Raises RequestError for one that the model does not have."""
    wrong = next((id for id in prompt if not 0 <= id < model.tokenizer.vocab_size), None)
    if wrong is not None:
        raise RequestError(f"there is no token {wrong}: ids go from 0 to {model.tokenizer.vocab_size - 1:,}.", "prompt")
    return np.array(prompt, dtype=np.int32)


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        texts = [part for part in parts if isinstance(part, str)]
        content = "".join(texts) if len(texts) == len(content) else None
    if not isinstance(content, str):
        raise RequestError("the content of a message must be text.", "messages")
    return content


def _whole(given: Mapping[str, Any], name: str, low: int, high: int, otherwise: Any) -> Any:
    value = given.get(name, otherwise)
    if value is not None and (type(value) is not int or not low <= value <= high):
        raise RequestError(f"{name} must be a whole number from {low} to {high:,}.", name)
    return value


def _flag(given: Mapping[str, Any], name: str) -> bool:
    value = given.get(name)
    if value is not None and type(value) is not bool:
        raise RequestError(f"{name} must be true or false.", name)
    return bool(value)


def _text(given: Mapping[str, Any], name: str) -> str | None:
    value = given.get(name)
    if value is not None and not isinstance(value, str):
        raise RequestError(f"{name} must be text.", name)
    return value


def token_text(model: LanguageModel, id: int) -> str:
    """A token as logprobs show it: its text; bytes that are no text as OpenAI shows them."""
    content = model.tokenizer.token_bytes[id] if id < len(model.tokenizer.token_bytes) else b""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


def completion_logprobs(model: LanguageModel, choices: Sequence[Choice], begin: int) -> dict[str, Any]:
    """The log-probabilities of a completion's tokens; `begin` is the character at which the first one begins."""
    tokens = [token_text(model, choice.id) for choice in choices]
    offsets, at = [], begin
    for token in tokens:
        offsets.append(at)
        at += len(token)
    return {
        "tokens": tokens,
        "token_logprobs": [choice.logprob for choice in choices],
        "top_logprobs": [{token_text(model, id): value for id, value in choice.top} for choice in choices],
        "text_offset": offsets,
    }


def chat_logprobs(model: LanguageModel, choices: Sequence[Choice]) -> dict[str, Any]:
    """The log-probabilities of a reply's tokens."""

    def entry(id: int, value: float | None) -> dict[str, Any]:
        return {"token": token_text(model, id), "logprob": value, "bytes": list(model.tokenizer.token_bytes[id])}

    return {
        "content": [
            {**entry(choice.id, choice.logprob), "top_logprobs": [entry(*each) for each in choice.top]}
            for choice in choices
        ]
    }


def usage(completions: Sequence[Completion], prompts: int) -> dict[str, int]:
    """Tokens read and written; `prompts` is how many of the completions share no prompt with an earlier one."""
    every = len(completions) // max(1, prompts)
    read, written = sum(each.prompt_tokens for each in completions[::every]), sum(each.tokens for each in completions)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def event(content: Mapping[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
