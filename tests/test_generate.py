"""Laws of the loop: y(t) becomes x(t+1), rows are alone, a stream is its text, a stop string never shows."""

import copy
import itertools
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from types import ModuleType

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from zoo import sharpen

import textgen
from textgen import storage
from textgen.data.tokenizers import ByteTokenizer, CharTokenizer
from textgen.errors import TextgenError, UsageError
from textgen.generation import SampleOptions
from textgen.generation.generate import (
    EXACT_ROWS,
    StopScanner,
    choose_seed,
    complete,
    rollout,
    sampling_options,
    stream,
)
from textgen.generation.language_model import (
    FEW_DOCUMENTS,
    LanguageModel,
    generation_config,
    load,
    with_generation_config,
)
from textgen.generation.sampling import Sampler, log_softmax
from textgen.model import CONFIG, GENERATION, ModelConfig
from textgen.model.weights import TorchStepper, make_model
from textgen.storage import filesystem
from textgen.training.runs import Run

law = settings(deadline=None)


class MockStepper:
    """Logits hang on all that a row has read, through a hash; `inputs` records what came in, one (B,) a time step.

    `batch_noise` makes them hang on the number of rows as well, in the last bits, as matrix products do.
    """

    def __init__(self, vocab_size, batch_noise=0.0):
        self.table = np.random.default_rng(0).normal(scale=3, size=(997, vocab_size)).astype(np.float32)
        self.noise = batch_noise
        self.inputs = []

    def initial_state(self, batch_size):
        return np.ones(batch_size, dtype=np.int64)

    def step(self, ids, state):
        assert ids.dtype == np.int32 and ids.shape == state.shape
        self.inputs.append(ids.tolist())
        state = (state * 31 + ids + 7) % 997
        return self.table[state] + np.float32(self.noise) * self.table[(state + len(ids)) % 997], state

    def forward(self, ids, state):
        for column in ids.T:
            logits, state = self.step(column, state)
        return logits, state


class Script:
    """Writes one text and then the boundary; where it is not let, its second choice."""

    def __init__(self, ids, boundary, second, vocab_size):
        self.ids, self.second, self.vocab_size = [*ids, *[boundary] * 50], second, vocab_size

    def initial_state(self, batch_size):
        return 0

    def step(self, ids, state):
        logits = np.zeros((len(ids), self.vocab_size), dtype=np.float32)
        logits[:, self.second] = 50
        logits[:, self.ids[state]] = 100
        return logits, state + 1


def mock(characters="abcdefgh", batch_noise=0.0, **parts):
    tokenizer = CharTokenizer(characters)
    stepper = MockStepper(tokenizer.vocab_size, batch_noise)
    parts = {"unsampled": tokenizer.unsampled, **parts}
    return LanguageModel(ModelConfig(tokenizer.vocab_size), tokenizer, stepper, **parts)


def scripted(text, tokenizer=None):
    tokenizer = tokenizer or ByteTokenizer()
    stepper = Script(tokenizer.encode(text), tokenizer.boundary, tokenizer.encode(".")[0], tokenizer.vocab_size)
    return LanguageModel(ModelConfig(tokenizer.vocab_size), tokenizer, stepper)


def samplers(seeds, **options):
    return [Sampler(SampleOptions(**options), seed) for seed in seeds]


def rolled(stepper, prompts, seeds, steps, **options):
    """What `steps` time steps draw, by row; None where a prompt lasts."""
    choices = rollout(stepper, [np.array(p, dtype=np.int32) for p in prompts], samplers(seeds, **options))
    drawn = [[None if c is None else c.id for c in row] for row, _ in itertools.islice(choices, steps)]
    return [list(row) for row in zip(*drawn, strict=True)]


PROMPTS = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), min_size=1, max_size=5)


# --- the loop ---


@law
@given(prompts=PROMPTS, seed=st.integers(0, 99), steps=st.integers(1, 12))
def test_what_was_drawn_is_what_is_read_next(prompts, seed, steps):
    stepper = MockStepper(10)
    rows = rolled(stepper, prompts, range(seed, seed + len(prompts)), steps)
    shortest = min(map(len, prompts))
    for read, prompt, drawn in zip(zip(*stepper.inputs, strict=True), prompts, rows, strict=True):
        assert drawn[: len(prompt) - shortest] == [None] * min(len(prompt) - shortest, steps)
        assert None not in drawn[len(prompt) - shortest :]
        wanted = [*prompt, *drawn[len(prompt) - shortest :]]
        assert list(read) == wanted[: shortest - 1 + steps]


@law
@given(prompts=PROMPTS, seeds=st.lists(st.integers(0, 99), min_size=5, max_size=5), steps=st.integers(1, 9))
def test_ragged_rows_together_are_each_row_alone(prompts, seeds, steps):
    shortest = min(map(len, prompts))
    together = rolled(MockStepper(10), prompts, seeds[: len(prompts)], steps, repetition_penalty=1.5)
    for drawn, prompt, seed in zip(together, prompts, seeds, strict=False):
        (alone,) = rolled(MockStepper(10), [prompt], [seed], steps, repetition_penalty=1.5)
        late = len(prompt) - shortest
        assert drawn[late:] == alone[: max(0, steps - late)]


@law
@given(prompts=PROMPTS, others=PROMPTS, seeds=st.lists(st.integers(0, 99), min_size=6, max_size=6))
def test_a_row_sees_neither_contents_nor_seeds_of_its_neighbours(prompts, others, seeds):
    prompt = prompts[0]
    shortest = [min(map(len, [prompt, *rest])) for rest in (prompts[1:], others)]
    rows = [
        rolled(MockStepper(10), [prompt, *rest], [7, *more][: 1 + len(rest)], 12)[0]
        for rest, more in ((prompts[1:], seeds), (others, seeds[::-1]))
    ]
    first, second = (row[len(prompt) - short :] for row, short in zip(rows, shortest, strict=True))
    assert all(a == b for a, b in zip(first, second, strict=False))


# --- a stream and its text ---


SCRIPTS = st.text("aaab é漢😀", max_size=14)
STOPS = st.lists(st.text("aab é漢😀", min_size=1, max_size=4), max_size=3)
LENGTHS = st.integers(-1, 20)


def cut_at_stop(text, stops):
    """The text before the stop string that is complete first, and whether there is one."""
    for end in range(len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


def expected(text, stops, length, ignore_eos):
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode((text or ".") + "." * 30 * ignore_eos)  # a text is never empty
    given_all = length < 0 or length > len(ids)
    written = tokenizer.decode_bytes(ids if given_all else ids[:length]).decode(
        errors="ignore"
    )  # never half a character
    cut, stopped = cut_at_stop(written, stops)
    return cut, "stop" if length and (stopped or given_all) else "length"


@law
@given(text=SCRIPTS, stops=STOPS, length=LENGTHS, ignore_eos=st.booleans())
def test_a_scripted_text_comes_as_it_is_up_to_its_end_its_length_or_a_stop(text, stops, length, ignore_eos):
    if ignore_eos and length < 0:
        stops = [*stops, "...."]
    model = scripted(text)
    options = {"stop": stops, "max_new_tokens": length, "ignore_eos": ignore_eos, "temperature": 0}
    (completion,) = complete(model, [""], SampleOptions(**options))
    assert (completion.text, completion.finish_reason) == expected(text, stops, length, ignore_eos)
    pieces = list(stream(model, **options))
    assert "".join(pieces) == completion.text == textgen.generate(model, **options)
    assert "" not in pieces
    whole = text + "." * 30
    assert all(whole.startswith("".join(pieces[:n])) for n in range(len(pieces)))  # only the last may be cut short


@law
@given(
    stop=st.lists(st.text("abc", min_size=1, max_size=3), max_size=3),
    max_new_tokens=st.integers(0, 12),
    seed=st.integers(0, 99),
    temperature=st.sampled_from([0, 0.7, 2.0]),
    prompt=st.text("abcx", max_size=3),
)
def test_a_stream_is_its_text(prompt, **options):
    model, seed, length, stops = mock("abc"), options["seed"], options["max_new_tokens"], options["stop"]
    text = textgen.generate(model, prompt, **options)
    assert "".join(stream(model, prompt, **options)) == text
    assert not any(stop in text for stop in stops)
    (completion,) = complete(model, [prompt], SampleOptions(**options))
    assert (completion.text, completion.prompt, completion.seed) == (text, prompt, seed)
    assert completion.tokens == len(completion.choices) <= length
    assert model.tokenizer.decode(c.id for c in completion.choices).startswith(text)


def test_pieces_come_as_soon_as_they_are_certain():
    read = []
    model = scripted("né ab!")
    real = model.stepper.step
    model.stepper.step = lambda ids, state: read.append(state) or real(ids, state)
    arrivals = [(len(read), piece) for piece in stream(model, stop="ab?", temperature=0)]
    # é takes two symbols; 'ab' might begin the stop string until '!' has come.
    assert arrivals == [(1, "n"), (3, "é"), (4, " "), (7, "ab!")]


def test_a_bad_option_of_a_stream_is_refused_at_the_call():
    with pytest.raises(UsageError, match=r"there is no option 'tempreature'\. Did you mean 'temperature'\?"):
        stream(mock(), tempreature=1)
    with pytest.raises(UsageError, match=r"^max_new_tokens must be a whole number from -1 .*, not 2\.5\.$"):
        textgen.generate(mock(), max_new_tokens=2.5)


# --- stop strings ---


@law
@example(text="xabcx", stops=["abc", "b"], cuts=[])
@example(text="xabcx", stops=["bc", "abc"], cuts=[])
@given(text=st.text("aab", max_size=12), stops=st.lists(st.text("aab", min_size=1, max_size=4), max_size=3),
       cuts=st.lists(st.integers(0, 12), max_size=4))  # fmt: skip
def test_a_stop_scanner_passes_on_what_stands_before_the_first_stop(text, stops, cuts):
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    scanner, passed = StopScanner(stops), ""
    for start, end in itertools.pairwise(edges):
        passed += scanner.feed(text[start:end])
        if scanner.stopped:
            break
        held = text[len(passed) : end]
        assert text.startswith(passed) and (not held or any(s.startswith(held) and s != held for s in stops))
    passed += scanner.finish()
    assert (passed, scanner.stopped) == cut_at_stop(text, stops)
    if len(stops) == 1 and stops[0] in text:
        assert passed == text[: text.find(stops[0])]


@pytest.mark.parametrize(
    ("text", "stops", "shown"),
    [
        ("aab", ["ab"], "a"),
        ("aaab!", ["aab"], "a"),
        ("xyab", ["ab"], "xy"),
        ("xya", ["ab"], "xya"),
        ("ab", ["ab"], ""),
        ("xabcabd", ["abd", "abe"], "xabc"),
        ("xabd", ["abcd", "abd", "bd"], "x"),
        ("xab", ["abab", "b"], "xa"),
        ("un café là", ["é l"], "un caf"),
        ("a\n\nb", ["\n\n"], "a"),
    ],
)
def test_stop_strings_across_symbols(text, stops, shown):
    model = scripted(text)
    (completion,) = complete(model, [""], SampleOptions(stop=stops, temperature=0))
    assert completion.text == shown and completion.finish_reason == "stop"
    assert "".join(stream(model, stop=stops, temperature=0)) == shown


def test_one_stop_may_be_given_as_text():
    assert textgen.generate(scripted("one two"), stop=" t", temperature=0) == "one"


# --- ends ---


def test_nothing_is_written_or_computed_for_zero_symbols():
    model = mock()
    (completion,) = complete(model, ["abc"], SampleOptions(max_new_tokens=0))
    assert (completion.text, completion.tokens, completion.finish_reason) == ("", 0, "length")
    assert list(stream(model, "abc", max_new_tokens=0)) == [] and model.stepper.inputs == []


def test_minus_one_goes_on_until_a_stop():
    text = "a" * 700
    (completion,) = complete(scripted(text), [""], SampleOptions(max_new_tokens=-1))
    assert (completion.text, completion.finish_reason, completion.tokens) == (text, "stop", 700)


@pytest.mark.parametrize("length", range(4, 7))
@pytest.mark.parametrize("raw", [False, True])
def test_a_character_that_the_end_cuts_is_not_shown_unless_raw_bytes_were_learned(length, raw):
    model = replace(scripted("abé漢"), raw_bytes=raw)
    (completion,) = complete(model, [""], SampleOptions(max_new_tokens=length))
    assert completion.text == "abé" + "\ufffd" * (raw and length > 4)


def test_rows_end_each_for_their_own_reason():
    model = mock("abcd")
    completions = complete(model, ["a"] * 60, SampleOptions(max_new_tokens=4, seed=3, stop=["bb"], temperature=2.0))
    drawn = [model.tokenizer.decode(choice.id for choice in c.choices) for c in completions]
    ends = [(c.finish_reason, "bb" in text, c.tokens == 4) for c, text in zip(completions, drawn, strict=True)]
    assert {("length", False, True), ("stop", True, False), ("stop", False, False)} <= set(ends)
    assert ("length", False, False) not in ends and not any(reason == "length" and bb for reason, bb, _ in ends)
    assert all(c.text == cut_at_stop(text, ["bb"])[0] for c, text in zip(completions, drawn, strict=True))


@law
@given(seed=st.integers(0, 999), greedy=st.booleans(), ignore_eos=st.booleans(), data=st.data())
def test_what_may_not_be_drawn_is_not_drawn(seed, greedy, ignore_eos, data):
    model = mock("abcd", unsampled=tuple(data.draw(st.sets(st.integers(1, 4)))))
    options = SampleOptions(seed=seed, greedy=greedy, ignore_eos=ignore_eos, max_new_tokens=30)
    (completion,) = complete(model, ["b"], options)
    assert not {c.id for c in completion.choices} & {*model.unsampled, model.tokenizer.boundary}
    if ignore_eos:
        assert (completion.tokens, completion.finish_reason) == (30, "length")


@law
@given(seed=st.integers(0, 99), top=st.integers(0, 8), prompt=st.text("abc", max_size=4))
def test_logprobs_are_those_of_the_model(seed, top, prompt):
    model = mock("abc")
    options = SampleOptions(seed=seed, logprobs=top, temperature=2.0, top_k=2, max_new_tokens=6)
    (completion,) = complete(model, [prompt], options)
    logits, state = model.stepper.forward(model.encode_prompt(prompt)[None], model.stepper.initial_state(1))
    for choice in completion.choices:
        own = log_softmax(logits[0])
        assert choice.logprob == own[choice.id] and len(choice.top) == min(top, len(own))
        assert all(logprob == own[i] for i, logprob in choice.top)
        logits, state = model.stepper.step(np.array([choice.id], dtype=np.int32), state)


# --- seeds and rows ---


@pytest.mark.parametrize("rows", [1, 3, EXACT_ROWS])
def test_sample_k_is_the_single_run_with_seed_plus_k(rows):
    model = mock(batch_noise=0.05)
    options = {"max_new_tokens": 40, "ignore_eos": True, "logprobs": 2}
    prompts = ["abc", "", "fa" * 9, "a", "b", "hh", "abc", "abc"][:rows]
    completions = complete(model, prompts, SampleOptions(seed=100, **options))
    for k, completion in enumerate(completions):
        (alone,) = complete(model, [prompts[k]], SampleOptions(seed=100 + k, **options))
        assert completion == alone
        assert completion.text == textgen.generate(model, prompts[k], seed=100 + k, **options)
    assert len({c.text for c in completions}) == rows


@pytest.mark.parametrize("rows", [EXACT_ROWS + 1, 20])
def test_in_a_large_batch_only_the_number_of_neighbours_matters(rows):
    model = mock(batch_noise=0.05)
    options = SampleOptions(seed=5, max_new_tokens=30)
    first = complete(model, ["abc"] * rows, options)
    second = complete(model, ["abc", *["hgfedcba" * 3] * (rows - 2), "abc"], options)
    assert [first[0], first[-1]] == [second[0], second[-1]]
    assert first[1:-1] != second[1:-1]


@law
@given(seed=st.integers(0, 2**63 - 1))
def test_a_seed_is_kept(seed):
    assert choose_seed(SampleOptions(seed=seed)) == seed


def test_without_a_seed_each_call_has_its_own_and_says_which():
    model, options = mock(), {"temperature": 2.0, "ignore_eos": True, "max_new_tokens": 60}
    first, second = (complete(model, ["a"], SampleOptions(**options))[0] for _ in range(2))
    assert first.seed != second.seed and first.text != second.text
    assert textgen.generate(model, "a", seed=first.seed, **options) == first.text


def test_no_prompts_no_completions():
    assert complete(mock(), [], SampleOptions()) == []


def test_the_generation_config_has_defaults_and_what_is_given_comes_first():
    model = mock(defaults={"max_new_tokens": 3, "seed": 1, "temperature": 0.5})
    assert sampling_options(model, {}) == SampleOptions(max_new_tokens=3, seed=1, temperature=0.5)
    assert sampling_options(model, {"seed": 2, "stop": "a"}).stop == ["a"]
    assert sampling_options(model, {"seed": 2}) == SampleOptions(max_new_tokens=3, seed=2, temperature=0.5)
    assert sampling_options(model, {"greedy": True}) == SampleOptions(max_new_tokens=3, seed=1, greedy=True)
    assert sampling_options(mock(defaults={"greedy": True}), {"temperature": 0.5}) == SampleOptions(temperature=0.5)
    assert sampling_options(mock(defaults={"greedy": True}), {"greedy": False, "top_k": 2}) == SampleOptions(top_k=2)
    assert len(textgen.generate(model, ignore_eos=True)) == 3
    with pytest.raises(UsageError, match=r"^greedy and temperature=0\.5 exclude each other\.$"):
        sampling_options(model, {"greedy": True, "temperature": 0.5})


# --- with torch ---


@pytest.fixture(scope="module")
def small():
    """A model whose texts differ."""
    import torch

    torch.manual_seed(1)
    tokenizer = CharTokenizer("abcdefgh")
    config = ModelConfig(tokenizer.vocab_size, embedding_size=5, hidden_size=12, num_layers=2)
    return config, tokenizer, sharpen(make_model(config))


@pytest.fixture
def language_model(small):
    config, tokenizer, model = small
    return LanguageModel(config, tokenizer, TorchStepper(model), unsampled=tokenizer.unsampled)


def test_the_torch_stepper_tells_one_story(small):
    stepper = TorchStepper(copy.deepcopy(small[2]).double())
    ids = np.random.default_rng(2).integers(0, 10, size=(3, 1030), dtype=np.int32)  # longer than one chunk of a prompt
    state, stepped = stepper.initial_state(3), []
    for column in ids.T:
        logits, state = stepper.step(column, state)
        stepped.append(logits)
    assert logits.shape == (3, 10) and logits.dtype == np.float32
    last, end = stepper.forward(ids, stepper.initial_state(3))
    np.testing.assert_allclose(last, logits, atol=1e-5)
    scores, scored_end = stepper.score(ids[:, :-1], ids[:, 1:], stepper.initial_state(3))
    own = log_softmax(np.stack(stepped, axis=1))[:, :-1]
    own = np.take_along_axis(own, ids[:, 1:, None].astype(int), axis=-1)[..., 0]
    np.testing.assert_allclose(scores, own, atol=1e-5)
    assert scores.dtype == np.float64 and len(scored_end) == len(end) == 4


@pytest.mark.parametrize("training", [True, False])
def test_the_torch_stepper_leaves_the_model_as_it_was(small, training):
    model = small[2].train(training)
    stepper = TorchStepper(model)
    one = np.zeros((1, 1), dtype=np.int32)
    stepper.step(one[0], stepper.initial_state(1))
    stepper.score(one, one, stepper.initial_state(1))
    assert model.training == training


def test_samples_of_a_torch_model_are_bit_for_bit_their_single_runs(language_model):
    options = {"max_new_tokens": 30, "ignore_eos": True, "logprobs": 1}
    for k, completion in enumerate(complete(language_model, ["abc"] * EXACT_ROWS, SampleOptions(seed=9, **options))):
        assert [completion] == complete(language_model, ["abc"], SampleOptions(seed=9 + k, **options))


# --- a model in use ---


@pytest.fixture
def folder(small, tmp_path):
    config, tokenizer, model = small
    path = tmp_path / "run"
    stored = {"begin": [0], "suppress_tokens": [1, 9], "sampling": {"max_new_tokens": 7}}
    contents = {CONFIG: config.to_json(), GENERATION: stored}
    run = Run.create(path, {**{n: filesystem.to_json(c) for n, c in contents.items()}, **tokenizer.files()})
    run.publish(model)
    return path


def test_a_loaded_model_writes_what_the_saved_one_wrote(folder, small, language_model):
    loaded = load(folder)
    assert (loaded.begin, loaded.unsampled, loaded.config) == ((0,), (1, 9), small[0])
    assert loaded.defaults == {"max_new_tokens": 7}
    same = LanguageModel(small[0], small[1], language_model.stepper, (0,), (1, 9), {"max_new_tokens": 7})
    assert textgen.generate(loaded, "ab", seed=4) == textgen.generate(same, "ab", seed=4)
    assert loaded.encode_prompt("ab").tolist() == [0, 2, 3]


@pytest.mark.parametrize("name", [storage.MANIFEST, CONFIG, GENERATION, "model.safetensors", "tokenizer_config.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone", "a folder"])
def test_a_damaged_file_is_named(folder, name, damage):
    path = folder / name
    content = bytearray(path.read_bytes())
    path.unlink()
    content[len(content) // 2] ^= 0x80
    if damage == "a folder":
        path.mkdir()
    elif damage != "gone":
        path.write_bytes(content if damage == "flipped" else content[: len(content) // 2])
    with pytest.raises(TextgenError) as caught:
        load(folder)
    assert name in str(caught.value) and str(folder) in str(caught.value) and str(caught.value).endswith(".")


def test_a_model_folder_of_an_older_version_is_refused_in_one_sentence(folder):
    manifest = storage.read_manifest(folder)
    (folder / storage.MANIFEST).write_bytes(storage.seal({**manifest, "format_version": 1}))
    with pytest.raises(TextgenError) as caught:
        load(folder)
    says = f"has format version 1; this textgen reads version {storage.FORMAT_VERSION}."
    assert str(caught.value) == f"{folder / storage.MANIFEST} {says}"
    assert caught.value.hint == "train again with this textgen, or install the textgen-lm that wrote it."


def test_what_is_no_model_folder_is_refused_with_a_hint(folder, tmp_path):
    with pytest.raises(TextgenError, match="there is no model folder") as caught:
        load(tmp_path / "nothing")
    assert caught.value.hint == "train one: textgen train FILE"
    with pytest.raises(TextgenError, match=r"config\.json' is a file, not a model folder\.$"):
        load(folder / CONFIG)
    with pytest.raises(TextgenError, match=r"is not a model folder \(it has no manifest\.json\)\.$"):
        load(tmp_path)
    with pytest.raises(UsageError, match=r"^backend must be auto, numpy, torch or int8, not 'tpu'\.$"):
        load(folder, backend="tpu")


def test_a_tokenizer_of_another_size_is_refused(folder):
    filesystem.replace_in_folder(folder, "tokenizer_config.json", CharTokenizer("ab").files()["tokenizer_config.json"])
    with pytest.raises(storage.DamagedError, match=r"its tokenizer has 4 tokens, its model 10\.$"):
        load(folder)


def test_a_run_without_weights_yet_says_how_to_go_on(small, tmp_path):
    config, tokenizer, _ = small
    run = tmp_path / "begun"
    Run.create(run, {CONFIG: filesystem.to_json(config.to_json()), GENERATION: b"{}", **tokenizer.files()})
    with pytest.raises(TextgenError, match=r"holds no weights yet\.$") as caught:
        load(run)
    assert caught.value.hint == f"go on training: textgen train --resume {run}"


@pytest.mark.parametrize(
    "stored",
    [
        {"begin": [10]},
        {"begin": [-1]},
        {"begin": [True]},
        {"begin": [1.0]},
        {"begin": 1},
        {"begin": None},
        {"suppress_tokens": ["1"]},
        {"suppress_tokens": [2, 10]},
        {"suppress_tokens": list(range(1, 10))},
        {"suppress_tokens": list(range(10))},
        {"sampling": [1]},
    ],
)
def test_an_invalid_generation_config_is_damage(small, stored):
    config, tokenizer, model = small
    with pytest.raises(storage.DamagedError, match=r"^generation_config\.json is damaged: .*\.$"):
        with_generation_config(config, tokenizer, TorchStepper(model), stored)


def test_a_prompt_begins_as_the_generation_config_says_and_is_never_empty():
    assert mock(begin=(0,)).encode_prompt("ab").tolist() == [0, 2, 3]
    assert mock(begin=(5, 2)).encode_prompt("").tolist() == [5, 2]
    assert mock().encode_prompt("").tolist() == [0]
    unknown = mock().encode_prompt("aé")
    assert unknown.tolist() == [2, 1] and unknown.dtype == np.int32


def test_characters_that_the_model_never_saw_are_named_once_in_order():
    model = mock("abcd", unsampled=(1, 4))
    assert model.unknown_characters("bazcéaéd") == ["z", "c", "é"]
    assert mock("abcd").unknown_characters("abcd") == []


class Store:
    """As much of a token store as `generation_config` reads."""

    def __init__(self, documents):
        self.tokenizer = CharTokenizer("\nabc")
        self.about = {"documents": {"train": len(documents)}}
        ids = np.concatenate([[0, *self.tokenizer.encode(text)] for text in documents])
        self.frequencies = np.bincount(ids, minlength=self.tokenizer.vocab_size)
        self.holds_text = True
        self.lines = False


def test_a_model_begins_at_a_boundary_and_never_writes_what_it_never_read():
    def stored(*texts):
        found = generation_config(Store(texts))
        return found["begin"], found["suppress_tokens"]

    assert stored(*["a\n"] * FEW_DOCUMENTS) == ([0], [1, 4, 5])
    assert stored(*["a\n"] * (FEW_DOCUMENTS - 1)) == ([0], [0, 1, 4, 5])  # too few ends to know what they mean
    assert stored("cac") == ([0], [0, 1, 2, 4])


def test_writing_needs_no_torch():
    modules = ["generation.generate", "generation.sampling", "data.tokenizers", "evaluation", "options", "tasks"]
    modules += ["model", "generation.language_model", "generation.session"]
    imports = ", ".join(f"textgen.{module}" for module in modules)
    code = f"import sys, {imports}; print(*{{'torch', 'datasets', 'safetensors'}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_a_public_name_is_never_the_module_of_that_name():
    for name in textgen.__all__:
        import_module(f"textgen.{textgen._HOMES[name]}")
    assert not any(isinstance(getattr(textgen, name), ModuleType) for name in textgen.__all__)
