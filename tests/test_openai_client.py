"""OpenAI's own Python client talks to the server: completions, streams, log-probabilities, models, errors."""

import pytest
from served import served, trained

import textgen
from textgen.serve import create_app

openai = pytest.importorskip("openai")  # pip install '.[test-serve]'


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("served"), "notes", "pairs")


@pytest.fixture(scope="module")
def model(folders):
    return textgen.load(folders["notes"])


@pytest.fixture(scope="module")
def client(folders):
    with served(create_app(folders)) as http:
        yield openai.OpenAI(base_url=f"{http.base_url}/v1", api_key="none", max_retries=0)


def test_completions_whole_and_streamed(client, model):
    wanted = textgen.generate(model, "the ", seed=3, max_new_tokens=30)
    asked = {"model": "notes", "prompt": "the ", "seed": 3, "max_tokens": 30}
    answer = client.completions.create(**asked)
    assert answer.choices[0].text == wanted and answer.usage.completion_tokens == 30
    chunks = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == wanted
    assert chunks[-1].usage == answer.usage


def test_several_texts_with_log_probabilities_and_echo(client):
    answer = client.completions.create(
        model="notes", prompt=["a", "the"], n=2, max_tokens=5, logprobs=3, echo=True, seed=1, stop=["q"], user="me"
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    for choice in answer.choices:
        found = choice.logprobs
        assert "".join(found.tokens) == choice.text and len(found.token_logprobs) == len(found.top_logprobs)
        assert all(len(top) == 3 for top in found.top_logprobs)


def test_a_state_goes_through_the_client(client, model):
    whole = textgen.generate(model, "the ", seed=3, max_new_tokens=30)
    first = client.completions.create(
        model="notes", prompt="the ", seed=3, max_tokens=10, extra_body={"return_state": True}
    )
    after = client.completions.create(model="notes", prompt="", max_tokens=20, extra_body={"state": first.state["id"]})
    assert first.choices[0].text + after.choices[0].text == whole


def test_chat(client, folders):
    wanted = textgen.generate(textgen.load(folders["pairs"]), "say hen", seed=1, max_new_tokens=16)
    asked = {"model": "pairs", "messages": [{"role": "user", "content": "say hen"}], "seed": 1}
    assert client.chat.completions.create(**asked).choices[0].message.content == wanted
    chunks = client.chat.completions.create(**asked, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == wanted
    found = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert all(len(each.top_logprobs) == 2 for each in found)


def test_models_and_errors(client):
    assert [each.id for each in client.models.list()] == ["notes", "pairs"]
    assert client.models.retrieve("pairs").id == "pairs"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("poems")
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="notes", prompt="a", temperature=-1)
    assert caught.value.param == "temperature"
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.2).completions.create(
            model="notes", prompt="a", max_tokens=1_000_000, extra_body={"ignore_eos": True}
        )
