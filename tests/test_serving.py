"""Laws of `textgen serve`, over a socket: what is written, states left behind, who may do what, what is refused."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from served import served, trained

import textgen
from textgen.cli import main
from textgen.errors import TextgenError, UsageError
from textgen.generation.generate import EXACT_ROWS
from textgen.generation.session import Session
from textgen.serve import Settings, by_name, connections, create_app, scheduler
from textgen.serve.access import is_foreign, read_keys
from textgen.serve.openapi import document
from textgen.serve.states import NoStateError, StateStore

KEYS = "ann ann-ann-ann-ann-ann\n# nobody\nbob bob-bob-bob-bob-bob\n"
ANN, BOB = ({"authorization": f"Bearer {name}-{name}-{name}-{name}-{name}"} for name in ("ann", "bob"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Models that continue texts, complete prompts, and label texts."""
    return trained(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def model(folders):
    return textgen.load(folders["notes"])


@pytest.fixture(scope="module")
def client(folders):
    with served(create_app(folders)) as found:
        yield found


def completed(client, **body):
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def text_of(answer):
    return answer["choices"][0]["text"]


def refused(client, path="/v1/completions", status=400, **body):
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"].endswith((".", "?"))
    return error


def streamed(client, **body):
    """The chunks of a stream, and the text of each choice."""
    with client.stream("POST", "/v1/completions", json={**body, "stream": True}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    chunks, texts = [json.loads(line) for line in lines[:-1]], {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    return chunks, texts


# --- texts ---


def test_a_seed_gives_the_text_of_generate_whole_and_streamed(client, model):
    for seed in range(4):
        wanted = textgen.generate(model, "the ", seed=seed, max_new_tokens=40)
        assert text_of(completed(client, prompt="the ", seed=seed, max_tokens=40)) == wanted
        chunks, texts = streamed(client, prompt="the ", seed=seed, max_tokens=40)
        assert texts == {0: wanted} and chunks[-1]["choices"][0]["finish_reason"] == "length"


def test_so_many_texts_at_once_are_each_exactly_their_own(client, model):
    wanted = [textgen.generate(model, "a hen", seed=seed, max_new_tokens=60) for seed in range(EXACT_ROWS)]
    with ThreadPoolExecutor(EXACT_ROWS) as threads:
        answers = threads.map(
            lambda seed: completed(client, prompt="a hen", seed=seed, max_tokens=60), range(EXACT_ROWS)
        )
    assert [text_of(answer) for answer in answers] == wanted
    many = completed(client, prompt="a hen", seed=0, n=EXACT_ROWS, max_tokens=60)
    assert [choice["text"] for choice in many["choices"]] == wanted


def test_options_mean_what_they_mean_in_the_library(client, model):
    for options in (
        {"temperature": 0},
        {"top_k": 3, "top_p": 0.9},
        {"presence_penalty": 1.5},
        {"stop": ["h"]},
        {"min_p": 0.2},
        {"temperature": [0.5, 1.5]},
        {"logit_bias": {"3": 50.0}},
        {"ignore_eos": True},
        {"stop": "he"},
    ):
        ours = {**options, "logit_bias": {int(key): value for key, value in options.get("logit_bias", {}).items()}}
        wanted = textgen.generate(model, "the", seed=3, max_new_tokens=30, **ours)
        assert text_of(completed(client, prompt="the", seed=3, max_tokens=30, **options)) == wanted, options


def test_the_last_word_of_a_prompt_is_finished(client, folders):
    pieces = textgen.load(folders["pieces"])
    for seed in range(4):
        for prompt in ("the fo", "the fox ra", "and th"):
            wanted = {
                heal: textgen.generate(pieces, prompt, seed=seed, max_new_tokens=9, heal=heal) for heal in (False, True)
            }
            asked = {"model": "pieces", "prompt": prompt, "seed": seed, "max_tokens": 9}
            assert text_of(completed(client, **asked)) == wanted[True]
            assert text_of(completed(client, **asked, heal=False)) == wanted[False]
    begun = client.post("/v1/states", json={"model": "pieces", "prompt": "the fo"}).json()["id"]
    answer = completed(client, model="pieces", state=begun, seed=1, max_tokens=9)
    assert text_of(answer) == textgen.generate(pieces, "the fo", seed=1, max_new_tokens=9)


def test_texts_follow_a_constraint(client, model):
    pytest.importorskip("llguidance")
    schema = {"type": "object", "properties": {"a": {"enum": ["hen", "den"]}}, "required": ["a"]}
    schema["additionalProperties"] = False
    formats = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    long = {"max_tokens": 80, "seed": 1}
    assert re.fullmatch("(fox|hen)+", text_of(completed(client, prompt="the ", regex="(fox|hen){1,3}", **long)))
    for constraint in ({"regex": "fox|hen"}, {"grammar": 'start: "fox" | "hen"'}):
        wanted = textgen.generate(model, "the ", **constraint, seed=1, max_new_tokens=80)
        assert text_of(completed(client, prompt="the ", **constraint, **long)) == wanted
        assert streamed(client, prompt="the ", **constraint, **long)[1] == {0: wanted}
    assert completed(client, prompt="the ", response_format={"type": "text"}, **long)
    for body in ({"regex": "a("}, {"grammar": "start: x"}, {"json_schema": "{"}, {"response_format": {"type": "xml"}}):
        assert refused(client, prompt="the ", **body, **long)["param"] == next(iter(body))
    assert "leaves no token" in refused(client, prompt="the ", response_format=formats, **long)["message"]
    assert "leaves no token" in refused(client, prompt="the ", regex="[0-9]", **long)["message"]


def test_the_shape_is_that_of_openai(client, model):
    answer = completed(client, model="notes", prompt="the", seed=1)
    assert answer["object"] == "text_completion" and answer["model"] == "notes" and answer["id"].startswith("cmpl-")
    assert answer["usage"] == {"prompt_tokens": 4, "completion_tokens": 16, "total_tokens": 20}
    (choice,) = answer["choices"]
    assert choice["index"] == 0 and choice["finish_reason"] == "length" and choice["logprobs"] is None
    chunks, _ = streamed(client, prompt="the", seed=1, stream_options={"include_usage": True})
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"] == answer["usage"]
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


def test_several_prompts_of_text_or_ids_and_several_texts_of_each(client, model):
    ids = client.post("/tokenize", json={"content": "the"}).json()["tokens"]
    assert client.post("/detokenize", json={"tokens": ids}).json() == {"content": "the"}
    answer = completed(client, prompt=["the", ids], n=2, seed=5)
    texts = [choice["text"] for choice in answer["choices"]]
    assert texts == [textgen.generate(model, "the", seed=5 + k, max_new_tokens=16) for k in range(4)]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert text_of(completed(client, prompt=ids, seed=5)) == texts[0]


def test_echo_scores_a_text_without_writing(client, model):
    from textgen.evaluation import token_scores

    answer = completed(client, prompt="the hen", max_tokens=0, echo=True, logprobs=2)
    found = answer["choices"][0]["logprobs"]
    assert text_of(answer) == "the hen" == "".join(found["tokens"])
    wanted = [score.logprob for score in token_scores(model, "the hen")]
    assert found["token_logprobs"] == pytest.approx(wanted, abs=1e-4)
    assert found["text_offset"] == list(range(7)) and all(len(top) == 2 for top in found["top_logprobs"])
    both = completed(client, prompt="the hen", max_tokens=3, echo=True, logprobs=0, seed=1)
    assert "".join(both["choices"][0]["logprobs"]["tokens"]) == text_of(both) and len(text_of(both)) == 10


def test_the_best_of_several_is_the_likeliest(client):
    every = completed(client, prompt="a", seed=2, n=6, logprobs=0)["choices"]
    means = [sum(choice["logprobs"]["token_logprobs"]) / 16 for choice in every]
    best = completed(client, prompt="a", seed=2, n=2, best_of=6)["choices"]
    ranked = sorted(range(6), key=lambda k: -means[k])[:2]
    assert [choice["text"] for choice in best] == [every[k]["text"] for k in ranked]


def test_a_model_of_prompts_answers_messages(client, folders):
    model = textgen.load(folders["pairs"])
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "say hen"}]
    answer = client.post("/v1/chat/completions", json={"model": "pairs", "messages": messages, "seed": 1}).json()
    wanted = textgen.generate(model, "say hen", seed=1, max_new_tokens=16)
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": wanted}
    assert "does not answer messages" in refused(client, "/v1/chat/completions", messages=messages)["message"]


def test_other_tasks_predict(client, folders):
    answer = client.post("/v1/predict", json={"model": "labels", "input": ["a fine day", "a dull day"]}).json()
    wanted = textgen.load(folders["labels"]).classify(["a fine day", "a dull day"])
    assert [each["label"] for each in answer["data"]] == [each.label for each in wanted]
    assert "use /v1/completions" in refused(client, "/v1/predict", input="a")["message"]
    assert "use /v1/predict" in refused(client, model="labels", prompt="a")["message"]


def test_models_are_listed(client, folders):
    assert [each["id"] for each in client.get("/v1/models").json()["data"]] == list(folders)
    assert client.get("/v1/models/pairs").json()["task"] == "complete"
    assert refused(client, model="note", status=404)["message"].endswith("Did you mean 'notes'?")


# --- what is refused ---

WRONG = [
    ({"promt": "a"}, "promt"),
    ({"temperature": -1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"n": 0}, "n"),
    ({"n": 1000}, "n"),
    ({"n": 3, "best_of": 2}, "best_of"),
    ({"prompt": 3}, "prompt"),
    ({"prompt": [[1], "a", 2]}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [99999]}, "prompt"),
    ({"prompt": [-1]}, "prompt"),
    ({"stop": [""]}, "stop"),
    ({"stop": ["x"] * 100}, "stop"),
    ({"stop": ["x" * 2000]}, "stop"),
    ({"stop": [3]}, "stop"),
    ({"logit_bias": {"a": 1e9}}, "logit_bias"),
    ({"logit_bias": [1]}, "logit_bias"),
    ({"stream": "yes"}, "stream"),
    ({"stream": True, "best_of": 2}, "best_of"),
    ({"seed": "x"}, "seed"),
    ({"seed": -1}, "seed"),
    ({"logprobs": -1}, "logprobs"),
    ({"num_beams": 2}, "num_beams"),
    ({"suffix": "x"}, "suffix"),
    ({"stream_options": {"x": 1}}, "stream_options"),
    ({"prompt": "\ud800"}, "prompt"),
    ({"state": 3}, "state"),
    ({"greedy": True, "temperature": 2}, "greedy"),
]


@pytest.mark.parametrize(("body", "param"), WRONG, ids=lambda each: str(each)[:40])
def test_a_wrong_field_is_named(client, body, param):
    answer = client.post("/v1/completions", content=json.dumps({"prompt": "a", **body}))
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param, answer.text


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"\xff", b'{"a":1e999}', b'{"temperature":NaN}', b'{"n":1,"n":2}', b"[" * 100_000,
             b'{"prompt":' + b'{"a":' * 5000 + b"1" + b"}" * 5001, b'{"n":' + b"9" * 6000 + b"}"],
)  # fmt: skip
def test_a_body_that_is_no_object_is_refused(client, body):
    answer = client.post("/v1/completions", content=body)
    assert answer.status_code == 400 and answer.json()["error"]["message"].startswith("the body must be a JSON object")


def test_what_is_too_large_is_refused(folders):
    with served(create_app(folders["notes"], max_body_bytes=5000, max_prompt_bytes=100)) as client:
        answer = client.post("/v1/completions", json={"prompt": "a" * 6000})
        assert answer.status_code == 413 and "5,000 bytes" in answer.json()["error"]["message"]
        assert "100 bytes" in refused(client, prompt="a" * 101)["message"]
        assert refused(client, prompt=["a", "b" * 101])["param"] == "prompt"
        assert text_of(completed(client, prompt="a" * 100))


@pytest.mark.parametrize(
    "path", ["/nowhere", "/v1/states/../../etc/passwd", "/v1/completions/x", "/v1/states/%2e%2e%2f"]
)
def test_other_paths_are_refused_in_the_same_shape(client, path):
    answer = client.get(path)
    assert answer.status_code in (404, 405) and "message" in answer.json()["error"]
    assert client.get("/v1/completions").status_code == 405


# --- states ---


def test_a_state_continues_the_text_and_can_be_forked(client, model):
    whole = textgen.generate(model, "the ", seed=4, max_new_tokens=60)
    first = completed(client, prompt="the ", seed=4, max_tokens=20, return_state=True)
    state = first["state"]["id"]
    assert re.fullmatch("[0-9a-f]{32}", state) and first["choices"][0]["state"] == first["state"]
    for _ in range(2):
        assert text_of(first) + text_of(completed(client, state=state, max_tokens=40)) == whole
    assert text_of(completed(client, state=state, max_tokens=40, seed=9)) != whole[20:]
    chunks, texts = streamed(client, state=state, max_tokens=40, return_state=True)
    assert text_of(first) + texts[0] == whole and len(chunks[-1]["state"]["id"]) == 32
    several = completed(client, state=state, n=3, max_tokens=40)["choices"]
    assert len({choice["text"] for choice in several}) == 3 and whole[20:] == several[0]["text"]


def test_a_state_is_read_on(client, model):
    state = client.post("/v1/states", json={"prompt": "the fox", "seed": 2}).json()
    assert state["object"] == "state" and state["model"] == "notes" and state["usage"]["prompt_tokens"] == 8
    after = Session.begin(model, "the fox", 2).read(" ran")
    assert text_of(completed(client, state=state["id"], prompt=" ran")) == after.write(max_new_tokens=16)[0]
    further = client.post("/v1/states", json={"state": state["id"], "prompt": " ran"}).json()
    assert text_of(completed(client, state=further["id"])) == after.write(max_new_tokens=16)[0]


def test_a_state_is_a_file_that_the_command_reads(client, model, folders, tmp_path, capfd):
    first = completed(client, prompt="the ", seed=4, max_tokens=20, return_state=True)
    path = tmp_path / "here.state"
    path.write_bytes(client.get(f"/v1/states/{first['state']['id']}").content)
    assert main(["sample", "-m", str(folders["notes"]), "--load-state", str(path), "-n", "40"]) == 0
    whole = textgen.generate(model, "the ", seed=4, max_new_tokens=60)
    assert capfd.readouterr().out.rstrip("\n") == whole[20:].rstrip("\n")
    id = "0123456789abcdef" * 2
    put = client.put(f"/v1/states/{id}", content=path.read_bytes())
    assert put.status_code == 200 and put.json()["id"] == id and put.json()["model"] == "notes"
    assert text_of(first) + text_of(completed(client, state=id, max_tokens=40)) == whole
    assert client.delete(f"/v1/states/{id}").json()["deleted"]
    for answer in (client.get(f"/v1/states/{id}"), client.delete(f"/v1/states/{id}")):
        assert answer.status_code == 404 and "unknown or was deleted" in answer.json()["error"]["message"]
    assert refused(client, state=id, status=404)["code"] == "state_not_found"


def test_uploaded_states_are_not_trusted(client, model, folders):
    state = completed(client, prompt="the", return_state=True)["state"]["id"]
    content = client.get(f"/v1/states/{state}").content
    other = Session.begin(textgen.load(folders["other"]), "the").to_bytes()
    odd = bytearray(content)
    odd[-20] ^= 1
    infinite = content.replace(content[-300:-296], b"\x00\x00\x80\x7f")
    id = "f" * 32
    for wrong in (b"", b"x", content[:-1], bytes(odd), infinite, content + b"x", b"{}" * 50):
        answer = client.put(f"/v1/states/{id}", content=wrong)
        assert answer.status_code == 400 and answer.json()["error"]["code"] == "damaged_state", answer.text
    assert client.put(f"/v1/states/{id}", content=other).status_code == 200  # of a model that is served, too
    assert refused(client, state=id, status=409)["code"] == "state_of_another_model"
    assert client.put("/v1/states/short", content=content).status_code == 404


def test_states_belong_to_keys(folders, tmp_path):
    (tmp_path / "keys").write_text(KEYS)
    with served(create_app(folders["notes"], api_key_file=str(tmp_path / "keys"))) as client:
        assert client.get("/health").status_code == 200
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": ANN["authorization"][7:]}):
            answer = client.post("/v1/completions", json={"prompt": "a"}, headers=headers)
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
            assert client.get("/v1/states", headers=headers).status_code == 401
        made = [client.post("/v1/states", json={"prompt": str(k)}, headers=ANN).json()["id"] for k in range(3)]
        listed = client.get("/v1/states", params={"limit": 2}, headers=ANN).json()
        assert [each["id"] for each in listed["data"]] == made[:0:-1] and listed["has_more"]
        rest = client.get("/v1/states", params={"after": made[1]}, headers=ANN).json()
        assert [each["id"] for each in rest["data"]] == made[:1] and not rest["has_more"]
        assert client.get("/v1/states", headers=BOB).json()["data"] == []
        content = client.get(f"/v1/states/{made[0]}", headers=ANN).content
        for answer in (
            client.get(f"/v1/states/{made[0]}", headers=BOB),
            client.delete(f"/v1/states/{made[0]}", headers=BOB),
            client.put(f"/v1/states/{made[0]}", headers=BOB, content=content),
            client.post("/v1/completions", json={"state": made[0]}, headers=BOB),
        ):
            assert answer.status_code == 404
        assert client.get(f"/v1/states/{made[0]}", headers=ANN).content == content


def test_without_keys_ids_are_secrets(client):
    assert client.get("/v1/states").status_code == 403


def test_the_oldest_states_go_first_and_say_why(tmp_path):
    store = StateStore(tmp_path, 10_000)
    ids = [store.put(bytes([k]) * 1000, "", "m") for k in range(10)]
    store.get(ids[0], "")
    more = [store.put(b"x" * 1000, "", "m") for _ in range(2)]
    assert store.get(ids[0], "").content == bytes(1000) and store.size == (10, 10_000)
    for gone in ids[1:3]:
        with pytest.raises(NoStateError, match="evicted, since the states reached their limit"):
            store.get(gone, "")
    with pytest.raises(NoStateError, match="unknown or was deleted"):
        store.get("0" * 32, "")
    with pytest.raises(TextgenError, match="larger than all states may be"):
        store.put(bytes(20_000), "", "m")
    store.close()
    again = StateStore(tmp_path, 5000)
    assert again.get(more[1], "").content == b"x" * 1000 and again.size == (10, 10_000)
    again.put(b"y", "", "m")
    assert again.size[1] <= 5000
    assert (tmp_path / "states.sqlite").stat().st_mode & 0o777 == 0o600
    again.close()
    (tmp_path / "states.sqlite").write_bytes(b"no database, but longer than a header" * 100)
    with pytest.raises(TextgenError, match="cannot be opened"):
        StateStore(tmp_path, 5000)


# --- who may do what ---


def test_without_a_key_only_this_machine_is_answered(client):
    port = client.base_url.port
    for host in ("evil.example", f"evil.example:{port}", "192.168.0.7", ""):
        answer = client.post("/v1/completions", json={"prompt": "a"}, headers={"host": host})
        assert answer.status_code in (400, 403), host
    for origin, status in (("http://evil.example", 403), (f"http://127.0.0.1:{port}", 200), ("null", 403)):
        answer = client.post("/v1/completions", json={"prompt": "a"}, headers={"origin": origin})
        assert answer.status_code == status, origin
    assert not is_foreign("localhost:80", None) and not is_foreign("[::1]:80", None) and is_foreign(None, None)
    assert not is_foreign("localhost", "https://a.example", ["https://a.example"])


def test_an_allowed_origin_may_read_the_answer(folders):
    with served(create_app(folders["notes"], cors_origin=["https://a.example"])) as client:
        origin = {"origin": "https://a.example"}
        before = client.options("/v1/completions", headers={**origin, "access-control-request-method": "POST"})
        assert before.status_code == 204 and "POST" in before.headers["access-control-allow-methods"]
        answer = client.post("/v1/completions", json={"prompt": "a"}, headers=origin)
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        assert client.options("/v1/completions", headers={"origin": "https://b.example"}).status_code == 403


def test_keys_are_read_from_a_file_and_the_environment(tmp_path):
    file = tmp_path / "keys"
    file.write_text(KEYS + "lonely-lonely-lonely\n")
    keys = read_keys(file, "default-default-default")
    assert list(keys.by_name) == ["default", "ann", "bob", "key-4"]
    assert keys.owner("bearer bob-bob-bob-bob-bob") == "bob" and keys.owner("Bearer lonely-lonely-lonely") == "key-4"
    assert (
        keys.owner("Bearer ") is None and keys.owner(None) is None and keys.owner("Basic bob-bob-bob-bob-bob") is None
    )
    for content, said in (
        ("a short", "5 characters; it needs 16"),
        ("# none\n", "holds no API key"),
        (KEYS * 2, "two API keys"),
    ):
        file.write_text(content)
        with pytest.raises(TextgenError, match=said):
            read_keys(file, None)
    with pytest.raises(TextgenError, match="cannot be read"):
        read_keys(tmp_path / "nowhere", None)


def test_settings_are_checked(folders):
    for wrong in ({"max_streams": 0}, {"states_limit": "lots"}, {"states_limit": "1"}, {"grace": -1}, {"color": "red"}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            create_app(folders["notes"], **wrong)
    assert Settings(states_limit="12G").states_bytes == 12 * 10**9 == Settings(states_limit="12 gb").states_bytes
    with pytest.raises(TextgenError, match="no model folder"):
        create_app("nowhere")
    with pytest.raises(UsageError, match="two models are called 'notes'"):
        by_name([folders["notes"], folders["notes"]])


# --- load ---


def test_answers_are_sent_at_once(folders):
    """Also on a socket that the server was given, as the command gives it one."""
    seen = []
    with served(create_app(folders["notes"]), socket.create_server(("127.0.0.1", 0)), seen) as client:
        assert client.get("/health").status_code == 200
        (connection,) = seen[0].server_state.connections
        own = connection.transport.get_extra_info("socket")
        assert own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("sent", [b"", b"POST /v1/comp", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n"])
def test_a_head_that_does_not_arrive_is_not_awaited_for_ever(client, sent, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=20) as connection:
        connection.sendall(sent)
        assert connection.recv(100) == b"", "the server closes the connection"


def test_hostile_requests_are_refused_and_harm_nobody(client, model):
    wanted = textgen.generate(model, "the ", seed=1, max_new_tokens=30)
    deep = b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    for body in (
        deep,
        b"\xff\xfe",
        b'{"prompt": "\xff"}',
        b'{"temperature": NaN}',
        b'{"temperature": 1e999}',
        b"1" * 10_000,
    ):
        answer = client.post("/v1/completions", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 400, (body[:30], answer.text)
    many = {"prompt": "a", "stop": [str(k) for k in range(10_000)]}
    assert client.post("/v1/completions", json=many).status_code == 400
    for prompt in ("\ud800", "a\udfff"):
        body = json.dumps({"prompt": prompt}).encode()
        assert client.post("/v1/completions", content=body).status_code == 400
    for id in ("..", "../../etc/passwd", "%2e%2e%2f", "0" * 31, "g" * 32, "0" * 33):
        assert client.get(f"/v1/states/{id}").status_code in (403, 404)
        assert client.post("/v1/completions", json={"state": id}).status_code == 404
    for port_of in range(3):  # half a request, and gone
        with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
            connection.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 900\r\n\r\n{" * (1 + port_of)
            )
    assert text_of(completed(client, prompt="the ", seed=1, max_tokens=30)) == wanted


def test_a_client_that_leaves_frees_its_row_at_once(folders):
    app = create_app(folders["notes"], max_streams=1)
    with served(app) as client:
        scheduler = app.state.server.scheduler
        body = {"prompt": "a", "max_tokens": 1_000_000, "ignore_eos": True}
        with client.stream("POST", "/v1/completions", json={**body, "stream": True}) as answer:
            lines = answer.iter_lines()
            next(lines)
            assert scheduler.running == 1
        assert text_of(completed(client, prompt="a", max_tokens=3))
        assert scheduler.running == 0
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/completions", json=body, timeout=0.3)
        assert text_of(completed(client, prompt="a", max_tokens=3))


def test_a_client_that_does_not_read_waits_and_others_do_not(folders, model, monkeypatch):
    monkeypatch.setattr(scheduler, "MOST_UNREAD", 20)
    monkeypatch.setattr(connections, "SEND_BUFFER", 1 << 12)
    app, number = create_app(folders["notes"]), 8_000
    wanted = textgen.generate(model, "the ", seed=1, max_new_tokens=30)
    body = json.dumps({"prompt": "a", "max_tokens": number, "ignore_eos": True, "stream": True, "seed": 5}).encode()
    with served(app) as client, socket.socket() as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
        stalled.connect((client.base_url.host, client.base_url.port))
        stalled.settimeout(60)
        head = ("POST /v1/completions HTTP/1.1", "Host: 127.0.0.1", "Connection: close", f"Content-Length: {len(body)}")
        stalled.sendall("\r\n".join([*head, "", ""]).encode() + body)
        deadline = time.monotonic() + 60
        while not any(each.streams.paused for each in app.state.server.scheduler._active):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for _ in range(3):
            assert text_of(completed(client, prompt="the ", seed=1, max_tokens=30)) == wanted
        received = b""
        while part := stalled.recv(1 << 16):
            received += part
    events = re.findall(rb"data: (\{.*?\})\r?\n", received)
    text = "".join(choice["text"] for event in events for choice in json.loads(event)["choices"])
    assert text == textgen.generate(model, "a", seed=5, max_new_tokens=number, ignore_eos=True), "nothing is lost"


def test_a_full_queue_is_refused_with_when_to_come_back(folders):
    app = create_app(folders["notes"], max_streams=2, max_queue=1)
    with served(app) as client, ThreadPoolExecutor(3) as threads:
        body = {"prompt": "a", "max_tokens": 20_000, "ignore_eos": True}
        busy = [threads.submit(completed, client, **body) for _ in range(3)]
        scheduler = app.state.server.scheduler
        while not (scheduler.queued == 1 and scheduler.running == 2) and not any(each.done() for each in busy):
            time.sleep(0.001)
        answer = client.post("/v1/completions", json=body)
        assert answer.status_code == 503 and answer.headers["retry-after"] and "queue is full" in answer.text
        assert all(each.result()["usage"]["completion_tokens"] == 20_000 for each in busy)


def test_a_request_that_takes_too_long_ends(folders):
    with served(create_app(folders["notes"], request_timeout=0.3)) as client:
        body = {"prompt": "a", "max_tokens": 1_000_000, "ignore_eos": True}
        assert refused(client, status=408, **body)["message"] == "the answer took longer than 0.3 seconds."
        with client.stream("POST", "/v1/completions", json={**body, "stream": True}) as answer:
            last = [line for line in answer.iter_lines() if line][-1]
        assert "took longer" in json.loads(last.removeprefix("data: "))["error"]["message"]
        assert client.get("/health").json() == {"status": "ok"}


def test_a_better_model_of_a_run_is_picked_up_between_requests(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("textgen.serve.models.RELOAD_SECONDS", 0.05)
    folder = tmp_path / "run"
    small = {"hidden_size": 16, "threads": 1, "sample_steps": 0, "tokenizer": "char"}
    notes = folders["notes"].parent / "notes.txt"
    textgen.train(notes, output_dir=str(folder), max_steps=5, **small)
    with served(create_app(folder, reload=True)) as client:
        state = completed(client, prompt="a", return_state=True)["state"]["id"]
        digest = client.get("/v1/models").json()["data"][0]["digest"]
        textgen.train(notes, output_dir=str(folder), overwrite_output_dir=True, max_steps=20, **small)
        last, deadline = textgen.load(folder).digest, time.monotonic() + 30  # it may have met earlier weights before
        while client.get("/v1/models").json()["data"][0]["digest"] != last and time.monotonic() < deadline:
            time.sleep(0.05)
        assert last != digest
        assert text_of(completed(client, prompt="a", seed=1)) == textgen.generate(
            textgen.load(folder), "a", seed=1, max_new_tokens=16
        )
        assert refused(client, state=state, status=409)["code"] == "state_of_another_model"


def test_what_is_counted(client):
    completed(client, prompt="the", max_tokens=5)
    text = client.get("/metrics").text
    assert re.search(r'textgen_requests_total\{path="/v1/completions",status="200"\} \d', text)
    for name in (
        "prompt_tokens_total",
        "completion_tokens_total",
        "time_to_first_token_seconds_sum",
        "time_per_token_seconds_count",
        "queued_texts",
        "running_texts",
        "states ",
        "states_bytes",
    ):
        assert f"textgen_{name}" in text
    assert client.get("/openapi.json").json() == document()


# --- the command ---


@contextmanager
def command(*arguments, cwd, **variables):
    """The process of `textgen serve`, and where it listens."""
    environment = {**os.environ, **variables}
    words = [sys.executable, "-m", "textgen", "serve", "--port", "0", *map(str, arguments)]
    process = subprocess.Popen(
        words, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def test_states_outlive_a_kill_of_the_server(folders, model, tmp_path):
    states = ["--states-dir", tmp_path / "states"]
    whole = textgen.generate(model, "the ", seed=4, max_new_tokens=60)
    with command(folders["notes"], *states, cwd=tmp_path) as (process, url):
        first = httpx.post(f"{url}/v1/completions", trust_env=False, json={
            "prompt": "the ", "seed": 4, "max_tokens": 20, "return_state": True}).json()  # fmt: skip
        process.kill()
    with command(folders["notes"], *states, cwd=tmp_path) as (process, url):
        after = httpx.post(
            f"{url}/v1/completions", trust_env=False, json={"state": first["state"]["id"], "max_tokens": 40}
        )
        assert text_of(first) + text_of(after.json()) == whole


def test_a_kill_during_fifty_streams_harms_no_state(folders, model, tmp_path):
    states, left = ["--states-dir", tmp_path / "states"], []

    def stream(url, seed):
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client, suppress(httpx.HTTPError):
            while True:
                chunks, texts = streamed(client, prompt="the ", seed=seed, max_tokens=20, return_state=True)
                left.append((seed, texts[0], chunks[-1]["state"]["id"]))
                seed += 50

    with command(folders["notes"], *states, cwd=tmp_path) as (process, url), ThreadPoolExecutor(50) as pool:
        streams = [pool.submit(stream, url, seed) for seed in range(50)]
        while len(left) < 60:
            time.sleep(0.01)
        process.kill()
        assert all(isinstance(each.exception(), AssertionError | None) for each in streams)  # cut off before [DONE]
    with (
        command(folders["notes"], *states, cwd=tmp_path) as (process, url),
        httpx.Client(base_url=url, timeout=60, trust_env=False) as client,
    ):
        for seed, text, id in left:
            session = Session.from_bytes(model, client.get(f"/v1/states/{id}").content, "state")
            assert session.seed == seed
            whole = textgen.generate(model, "the ", seed=seed, max_new_tokens=40)
            after = text_of(completed(client, state=id, max_tokens=20))
            assert text + after == whole or not whole.startswith(text)  # other texts may decide between ties


def test_a_full_disk_is_said_and_forgets_nothing(folders, tmp_path):
    app = create_app(folders["notes"], states_dir=str(tmp_path))
    base = app.state.server.store._base
    with served(app) as client:
        kept = client.post("/v1/states", json={"prompt": "the "}).json()["id"]
        before = app.state.server.store.size
        base.execute(f"PRAGMA max_page_count = {base.execute('PRAGMA page_count').fetchone()[0]}")
        for _ in range(40):
            answer = client.post("/v1/states", json={"prompt": "the "})
            if answer.status_code != 200:
                break
        assert answer.status_code == 503 and "cannot be stored" in answer.json()["error"]["message"]
        base.execute("PRAGMA max_page_count = 1000000")
        assert client.post("/v1/states", json={"prompt": "the "}).status_code == 200
        assert client.get(f"/v1/states/{kept}").status_code == 200
        number, size = app.state.server.store.size
        assert number > before[0] and size == base.execute("SELECT sum(size) FROM states").fetchone()[0]


def test_an_address_that_is_taken_is_said(folders, capfd):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(folders["notes"]), "--port", str(port)]) == 1
    assert f"Error: the server cannot listen at 127.0.0.1 port {port}: " in capfd.readouterr().err
    assert main(["serve", str(folders["notes"]), "--host", "nowhere.invalid", "--api-key-file", "/dev/null"]) != 0


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGINT], [signal.SIGTERM, signal.SIGTERM]])
def test_a_signal_lets_requests_finish_and_a_second_one_does_not(folders, tmp_path, signals):
    with command(folders["notes"], "--grace", "30", cwd=tmp_path) as (process, url):
        body = {
            "prompt": "a",
            "max_tokens": 20_000 if len(signals) == 1 else 1_000_000,
            "ignore_eos": True,
            "stream": True,
        }
        with httpx.stream("POST", f"{url}/v1/completions", json=body, trust_env=False, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            for number in signals:
                process.send_signal(number)
                time.sleep(0.3)
            if len(signals) == 1:
                assert [line for line in lines if line][-1] == "data: [DONE]"
        assert process.wait(20) in (0, 130, 143, -signals[0])


def test_the_command_says_what_it_needs(folders, tmp_path, capfd, monkeypatch):
    monkeypatch.delenv("TEXTGEN_API_KEY", raising=False)
    assert main(["serve", str(folders["notes"]), "--host", "0.0.0.0"]) == 2
    assert "needs an API key, since others reach it" in capfd.readouterr().err
    assert main(["serve", str(tmp_path / "nowhere")]) == 1
    assert "no model folder" in capfd.readouterr().err
    assert main(["serve", f"x={folders['notes']}", "--states-limit", "many"]) == 2
    assert "--states-limit many must be a size" in capfd.readouterr().err


def test_a_model_has_the_name_of_its_folder_or_the_one_that_is_typed(folders, tmp_path, capfd):
    with command(folders["notes"], folders["pairs"], cwd=tmp_path) as (_, url):
        listed = httpx.get(f"{url}/v1/models", trust_env=False).json()["data"]
        assert [each["id"] for each in listed] == ["notes", "pairs"]
    with command(f"poems={folders['notes']}", cwd=tmp_path) as (_, url):
        assert [each["id"] for each in httpx.get(f"{url}/v1/models", trust_env=False).json()["data"]] == ["poems"]
    assert main(["serve", str(folders["notes"]), f"{folders['notes']}/../notes"]) == 2
    assert "two models are called 'notes'" in capfd.readouterr().err


def test_the_server_does_not_import_torch(folders, tmp_path):
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from textgen.serve import create_app\n"
        f"app = create_app({str(folders['notes'])!r}); app.state.server.close(0)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=False).returncode == 0
    assert Path(folders["notes"]).is_dir()
