"""The OpenAPI document of the server, made from the same declarations that requests are checked with."""

from __future__ import annotations

from functools import cache
from typing import Any

from textgen import __version__
from textgen.generation import SampleOptions
from textgen.options import declared, value_type
from textgen.serve.protocol import (
    DEFAULT_TOKENS,
    LONGEST_STOP,
    MOST_LOGPROBS,
    MOST_STOPS,
    MOST_TEXTS,
    MOST_TOKENS,
    SAMPLING,
)

TEXT: dict[str, Any] = {"type": "string"}
FLAG: dict[str, Any] = {"type": "boolean"}
OBJECT: dict[str, Any] = {"type": "object"}
STATE_ID: dict[str, Any] = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
TYPES: dict[type, str] = {int: "integer", float: "number", str: "string", bool: "boolean"}


def whole(low: int, high: int) -> dict[str, Any]:
    """A whole number within these bounds."""
    return {"type": "integer", "minimum": low, "maximum": high}


def listed(items: dict[str, Any], **limits: Any) -> dict[str, Any]:
    """A list of items."""
    return {"type": "array", "items": items, **limits}


def reference(name: str) -> dict[str, Any]:
    """A body of a request or an answer, by name."""
    return {"$ref": f"#/components/schemas/{name}"}


def optional(schema: dict[str, Any]) -> dict[str, Any]:
    """A field that may also be null, which counts as absent."""
    return {"anyOf": [schema, {"type": "null"}]}


def record(properties: dict[str, Any], required: tuple[str, ...] = (), closed: bool = True) -> dict[str, Any]:
    """An object with these fields, and no others if it is closed."""
    return {
        "type": "object",
        "properties": properties,
        **({"required": list(required)} if required else {}),
        **({"additionalProperties": False} if closed else {}),
    }


def sampling() -> dict[str, Any]:
    """The fields of every sampling option."""
    found: dict[str, Any] = {}
    for field, declaration in declared(SampleOptions):
        if field.name not in SAMPLING:
            continue
        kind, _ = value_type(SampleOptions, field.name)
        schema: dict[str, Any] = {"type": TYPES.get(kind, "object"), "description": declaration.help}
        if declaration.low is not None:
            schema["minimum"] = declaration.low
        if declaration.above is not None:
            schema["exclusiveMinimum"] = declaration.above
        if declaration.high is not None:
            schema["maximum"] = declaration.high
        found[field.name] = optional(schema)
    number = {"type": "number", "minimum": 0, "maximum": 100}
    found["temperature"] = optional({"anyOf": [number, listed(number, minItems=2)]})
    stop = {"type": "string", "minLength": 1, "maxLength": LONGEST_STOP}
    found["stop"] = optional({"anyOf": [stop, listed(stop, maxItems=MOST_STOPS)]})
    bias = {"type": "number", "minimum": -100, "maximum": 100}
    found["json_schema"] = optional({"anyOf": [TEXT, OBJECT], "description": "Write JSON that follows this schema."})
    found["logit_bias"] = optional({"type": "object", "additionalProperties": bias})
    return found


def response_format() -> dict[str, Any]:
    """OpenAI's field for constrained texts."""
    schema = record({"name": TEXT, "schema": OBJECT, "strict": optional(FLAG)}, ("schema",), closed=False)
    plain = record({"type": {"enum": ["text", "json_object"]}}, ("type",))
    return {
        "anyOf": [plain, record({"type": {"const": "json_schema"}, "json_schema": schema}, ("type", "json_schema"))]
    }


def common() -> dict[str, Any]:
    """The fields of every request for text."""
    return {
        "model": optional(TEXT),
        "max_tokens": optional({**whole(0, MOST_TOKENS), "default": DEFAULT_TOKENS}),
        "max_new_tokens": optional(whole(0, MOST_TOKENS)),
        "n": optional({**whole(1, MOST_TEXTS), "default": 1}),
        "stream": optional(FLAG),
        "stream_options": optional(record({"include_usage": optional(FLAG)})),
        "user": optional(TEXT),
        "response_format": optional(response_format()),
        "state": optional({"type": "string", "description": "Continue from the state of this id."}),
        "return_state": optional({**FLAG, "description": "Leave a state behind, whose id the response names."}),
        **sampling(),
    }


PROMPT: dict[str, Any] = {
    "anyOf": [
        TEXT,
        listed({"type": "integer", "minimum": 0}),
        listed({"anyOf": [TEXT, listed({"type": "integer", "minimum": 0})]}, minItems=1, maxItems=MOST_TEXTS),
    ]
}


def requests() -> dict[str, Any]:
    """The bodies of requests."""
    part = record({"type": {"const": "text"}, "text": TEXT}, ("type", "text"))
    message = record({"role": TEXT, "content": {"anyOf": [TEXT, listed(part)]}}, ("role",), closed=False)
    seed = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
    completion = {
        "prompt": optional(PROMPT),
        "best_of": optional(whole(1, MOST_TEXTS)),
        "echo": optional(FLAG),
        "logprobs": optional(whole(0, MOST_LOGPROBS)),
        **common(),
    }
    chat = {
        "messages": listed(message, minItems=1),
        "max_completion_tokens": optional(whole(0, MOST_TOKENS)),
        "logprobs": optional(FLAG),
        "top_logprobs": optional(whole(0, MOST_LOGPROBS)),
        **common(),
    }
    predict = {
        "input": optional({"anyOf": [TEXT, listed(TEXT, minItems=1)]}),
        "threshold": optional({"type": "number", "minimum": 0, "maximum": 1}),
        "table": optional(TEXT),
        "horizon": optional({"type": "integer", "minimum": 1}),
        "level": optional({"type": "number"}),
        "seed": optional({"type": "integer", "minimum": 0}),
    }
    model, ids = {"model": optional(TEXT)}, listed({"type": "integer", "minimum": 0})
    state = {"prompt": optional(PROMPT), "state": optional(TEXT), "seed": optional(seed)}
    return {
        "CompletionRequest": record(completion),
        "ChatRequest": record(chat, ("messages",)),
        "StateRequest": record({**model, **state}),
        "TokenizeRequest": record({"content": TEXT, **model}, ("content",)),
        "DetokenizeRequest": record({"tokens": ids, **model}, ("tokens",)),
        "PredictRequest": record({**model, **predict}),
    }


def answers() -> dict[str, Any]:
    """The bodies of answers."""
    number: dict[str, Any] = {"type": "integer"}
    usage = record(dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), number))
    state = record({"id": STATE_ID})
    head = {"id": TEXT, "object": TEXT, "created": number, "model": TEXT, "system_fingerprint": TEXT}
    reason = optional({"type": "string", "enum": ["stop", "length"]})
    choice = {"index": number, "logprobs": optional(OBJECT), "finish_reason": reason, "state": state}
    whole_answer = {**head, "usage": usage, "state": state}
    stored = {**dict.fromkeys(("created", "used", "bytes"), number), "object": {"const": "state"}, "usage": usage}
    model = {**dict.fromkeys(("id", "object", "owned_by", "task", "digest"), TEXT), "created": number}
    error = {"message": TEXT, "type": TEXT, "param": optional(TEXT), "code": optional(TEXT)}
    done = ("id", "choices")
    return {
        "Error": record({"error": record(error, tuple(error))}, ("error",)),
        "Completion": record({**whole_answer, "choices": listed(record({**choice, "text": TEXT}))}, done),
        "ChatCompletion": record({**whole_answer, "choices": listed(record({**choice, "message": OBJECT}))}, done),
        "State": record({"id": STATE_ID, "model": optional(TEXT), **stored}, ("id", "object", "bytes")),
        "States": record({"object": TEXT, "data": listed(reference("State")), "has_more": FLAG}, ("data",)),
        "Model": record(model, ("id", "object")),
        "Models": record({"object": TEXT, "data": listed(reference("Model"))}, ("data",)),
        "Deleted": record({"id": STATE_ID, "object": TEXT, "deleted": FLAG}),
        "Tokens": record({"tokens": listed(number)}, ("tokens",)),
        "Content": record({"content": TEXT}, ("content",)),
        "Predictions": record({"object": TEXT, "model": TEXT, "data": listed(OBJECT)}, ("data",)),
        "Health": record({"status": {"const": "ok"}}, ("status",)),
    }


def operation(
    summary: str, answer: str, request: str | None = None, parameters: tuple[dict[str, Any], ...] = (), **content: Any
) -> dict[str, Any]:
    """An operation that answers with a schema; `content` names other media types."""
    json = {"application/json": {"schema": reference(answer)}} if answer else {}
    refused = {"description": "What is wrong.", "content": {"application/json": {"schema": reference("Error")}}}
    body = {"required": True, "content": {"application/json": {"schema": reference(request)}}} if request else None
    codes = ("400", "401", "403", "404", "405", "408", "409", "413", "503")
    return {
        "summary": summary,
        "parameters": list(parameters),
        **({"requestBody": body} if body else {}),
        "responses": {
            "200": {"description": "Done.", "content": {**json, **content}},
            **dict.fromkeys(codes, refused),
        },
    }


@cache
def document() -> dict[str, Any]:
    """The document."""
    stream: dict[str, Any] = {"text/event-stream": {"schema": TEXT}}
    plain: dict[str, Any] = {"text/plain": {"schema": TEXT}}
    octets: dict[str, Any] = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    id = {"name": "id", "in": "path", "required": True, "schema": TEXT}
    name = {"name": "name", "in": "path", "required": True, "schema": TEXT}
    after = {"name": "after", "in": "query", "schema": TEXT}
    limit = {"name": "limit", "in": "query", "schema": whole(1, 1000)}
    upload = operation("Store a state file under an id of yours.", "State", parameters=(id,))
    upload["requestBody"] = {"required": True, "content": octets}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "textgen",
            "version": __version__,
            "description": "Recurrent models over HTTP, with their states.",
        },
        "security": [{}, {"key": []}],
        "paths": {
            "/v1/completions": {"post": operation("Continue a text.", "Completion", "CompletionRequest", **stream)},
            "/v1/chat/completions": {"post": operation("Answer a prompt.", "ChatCompletion", "ChatRequest", **stream)},
            "/v1/predict": {"post": operation("Label texts, or forecast series.", "Predictions", "PredictRequest")},
            "/v1/models": {"get": operation("The models.", "Models")},
            "/v1/models/{name}": {"get": operation("A model.", "Model", parameters=(name,))},
            "/v1/states": {
                "post": operation("Read a text and keep the state.", "State", "StateRequest"),
                "get": operation("The states of this API key.", "States", parameters=(after, limit)),
            },
            "/v1/states/{id}": {
                "get": operation("A state file.", "", parameters=(id,), **octets),
                "put": upload,
                "delete": operation("Forget a state.", "Deleted", parameters=(id,)),
            },
            "/tokenize": {"post": operation("The tokens of a text.", "Tokens", "TokenizeRequest")},
            "/detokenize": {"post": operation("The text of tokens.", "Content", "DetokenizeRequest")},
            "/health": {"get": operation("Whether the server is up.", "Health")},
            "/metrics": {"get": operation("Counters for Prometheus.", "", **plain)},
        },
        "components": {
            "schemas": {**requests(), **answers()},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }
