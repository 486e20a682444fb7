"""Laws of completing prompts: what is read, what counts, what is never generated, and that every cell learns it."""

import json
import re
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from faults import Quick
from hypothesis import given, settings
from hypothesis import strategies as st
from terminal import refusal, run
from zoo import CELLS, INSTALLED

import textgen
from textgen import storage
from textgen.data.sources import SourceOptions, find_sources
from textgen.data.store import tokenizer_of
from textgen.data.tokenizers import WordTokenizer, train_tokenizer
from textgen.distributed import parts
from textgen.errors import TextgenError, UsageError
from textgen.generation.generate import generate
from textgen.generation.language_model import with_generation_config
from textgen.generation.session import Session
from textgen.model import GENERATION, WEIGHTS, ModelConfig
from textgen.model.stack import build_model
from textgen.model.weights import TorchStepper
from textgen.storage import filesystem
from textgen.tasks import options_for
from textgen.tasks.completion.data import CompletionData
from textgen.tasks.completion.evaluate import evaluate_pairs, exact_matches, write_completions
from textgen.tasks.completion.objective import JITTER, CompletionObjective
from textgen.tasks.completion.options import CompletionOptions, columns_of
from textgen.tasks.completion.reading import (
    Pair,
    choose_held_out,
    encode_pairs,
    padded_batches,
    read_pairs,
    scan_pairs,
    score_examples,
)
from textgen.tasks.data import IGNORED, write_examples
from textgen.tasks.objective import Batches
from textgen.training.runs import METRICS, OPTIMIZER, STATE
from textgen.training.start import resume, start
from textgen.training.stored_data import data_of

COLUMNS = ("intent", "snippet")
ONCE = [next(name for name in INSTALLED if INSTALLED[name] is cell) for cell in dict.fromkeys(INSTALLED.values())]
TOKENIZER_KINDS = ("char", "byte", "bpe", "unigram", "word")
WORDS = [first + second for first in "abcde" for second in "abcde"]
REVERSING = [Pair(word.encode(), word[::-1].encode()) for word in WORDS]
SENTENCES = [
    Pair(f"say {number} times {word}".encode(), f"{word} and {word}; {number}".encode())
    for number in range(12) for word in ("hen", "fox", "cat")
]  # fmt: skip


def table(folder, rows, name="pairs.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pairs_of(path, columns=COLUMNS):
    return list(read_pairs(find_sources([str(path)]), columns, SourceOptions()))


def tokenizer_for(pairs, kind="char"):
    return train_tokenizer(kind, ([text] for pair in pairs for text in pair), 300)


# --- reading ---


def test_pairs_are_read_alike_from_every_kind_of_table(tmp_path):
    import pyarrow
    from pyarrow import parquet

    rows = [{"intent": 'näher, "so"', "id": 1, "snippet": "a\nb"}, {"intent": "2", "id": 2, "snippet": "x = 2"}]
    expected = [Pair(row["intent"].encode(), row["snippet"].encode()) for row in rows]
    csv = tmp_path / "pairs.csv"
    csv.write_text('intent,id,snippet\n"näher, ""so""",1,"a\nb"\n2,2,x = 2\n')
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    paths = [table(tmp_path, rows), csv, tmp_path / "pairs.parquet"]
    assert [pairs_of(path) for path in paths] == [expected] * 3


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"intent": "", "snippet": "x"}, "line 2 of 'PATH': column 'intent' is empty; a pair needs a prompt and a "
                                         "completion."),
        ({"intent": "a", "snippet": " \n"}, "line 2 of 'PATH': column 'snippet' is empty; a pair needs a prompt and a "
                                            "completion."),
        ({"intent": "a"}, "line 2 of 'PATH': column 'snippet' is empty; a pair needs a prompt and a completion."),
        ({"intent": None, "snippet": "x"}, "line 2 of 'PATH': column 'intent' is empty; a pair needs a prompt and a "
                                           "completion."),
        ({"intent": "a", "snippet": 7}, "line 2 of 'PATH': column 'snippet' holds a number, not text."),
        ({"intent": ["a"], "snippet": "x"}, "line 2 of 'PATH': column 'intent' holds a list, not text."),
        ({"intent": "\ud800", "snippet": "x"}, "line 2 of 'PATH': column 'intent' has half a character (U+D800)."),
    ],
)  # fmt: skip
def test_a_cell_that_is_no_text_is_refused_with_its_row_and_column(tmp_path, row, sentence):
    path = table(tmp_path, [{"intent": "a", "snippet": "b"}, row])
    with pytest.raises(TextgenError) as caught:
        pairs_of(path)
    assert str(caught.value) == sentence.replace("PATH", str(path))


def test_a_column_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    path = table(tmp_path, [{"intent": "a", "snippet": "b"}])
    with pytest.raises(UsageError, match=r"has no column 'intend'; its columns are 'intent', 'snippet'\. Did you mean"):
        pairs_of(path, ("intend", "snippet"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (CompletionOptions(prompt_column="a"), "prompt_column=a goes with completion_column, which is missing."),
        (CompletionOptions(completion_column="b"), "completion_column=b goes with prompt_column, which is missing."),
        (CompletionOptions(), "the task complete needs pairs of two columns."),
        (
            CompletionOptions(prompt_column="a", completion_column="a"),
            "prompt_column and completion_column are both 'a'; a pair has two columns.",
        ),
    ],
)
def test_both_columns_are_named_or_none(options, sentence):
    with pytest.raises(UsageError) as caught:
        columns_of(options)
    assert str(caught.value) == sentence


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.floats(0, 0.9), st.integers(0, 9))
def test_pairs_with_one_prompt_are_held_out_together_and_some_are_left(numbers, share, seed):
    prompts = np.array(numbers, dtype=np.uint64)
    held = choose_held_out(prompts, share, seed)
    assert not set(prompts[held]) & set(prompts[~held]) and (~held).any()
    assert share or not held.any()
    same = np.array_equal(held, choose_held_out(prompts, share, seed))
    assert same
    if len(set(numbers)) == len(numbers) > 1:
        assert held.sum() == min(round(share * len(numbers)), len(numbers) - 1)


def test_a_scan_tells_pairs_apart_that_are_divided_elsewhere():
    one, other = [Pair(b"ab", b"c")], [Pair(b"a", b"bc")]
    assert scan_pairs(one).digest != scan_pairs(other).digest
    found = scan_pairs([*one, *one, *other])
    assert (found.total, found.distinct) == (9, 3) and found.prompts[0] == found.prompts[1] != found.prompts[2]


# --- examples and batches ---


@pytest.mark.parametrize("kind", TOKENIZER_KINDS)
def test_an_example_is_boundary_prompt_separator_completion_boundary(kind):
    tokenizer = tokenizer_for(SENTENCES, kind)
    examples = encode_pairs(tokenizer, SENTENCES)
    for row, pair in enumerate(SENTENCES):
        first, *middle, last = examples.example(row).tolist()
        assert first == last == tokenizer.boundary and middle.count(tokenizer.vocab_size) == 1
        place = middle.index(tokenizer.vocab_size)
        assert [tokenizer.decode_bytes(part) for part in (middle[:place], middle[place + 1 :])] == list(pair)
        assert len(middle) + 1 == examples.read[row]
    assert examples.bytes == sum(len(pair.completion) for pair in SENTENCES)
    assert np.array_equal(examples.written, np.concatenate(
        [tokenizer.encode(pair.completion.decode()) for pair in SENTENCES]))  # fmt: skip


@pytest.mark.parametrize("kind", TOKENIZER_KINDS)
@given(text=st.text(max_size=60))
@settings(max_examples=40)
def test_no_text_is_ever_the_separator(kind, text):
    if kind not in _TOKENIZERS:
        _TOKENIZERS[kind] = tokenizer_for(SENTENCES, kind)
    tokenizer = _TOKENIZERS[kind]
    text = text.encode("utf-8", "ignore").decode()
    assert tokenizer.vocab_size not in tokenizer.model_ids(tokenizer.encode(text)).tolist()


_TOKENIZERS = {}


def test_targets_are_the_completion_and_its_end_and_prompt_targets_the_rest():
    tokenizer = tokenizer_for(SENTENCES)
    examples = encode_pairs(tokenizer, SENTENCES)
    inputs, targets, of_prompts = examples.batch([3, 0, 20])
    assert inputs.shape == targets.shape == of_prompts.shape and not ((targets >= 0) & (of_prompts >= 0)).any()
    for lane, row in enumerate([3, 0, 20]):
        ids = examples.example(row)
        size = len(ids) - 1
        assert np.array_equal(inputs[:size, lane], ids[:-1])
        assert np.array_equal(np.maximum(targets, of_prompts)[:size, lane], ids[1:])
        assert (targets[size:, lane] == IGNORED).all() and (of_prompts[size:, lane] == IGNORED).all()
        kept = targets[:, lane][targets[:, lane] != IGNORED]
        assert tokenizer.decode_bytes(kept[:-1].tolist()) == SENTENCES[row].completion and kept[-1] == ids[-1]


def test_a_long_completion_is_cut_at_its_end():
    examples = encode_pairs(tokenizer_for(SENTENCES), SENTENCES)
    whole, cut = examples.batch([0, 1]), examples.batch([0, 1], int(examples.sizes[0, 0]) + 4)
    for long, short in zip(whole, cut, strict=True):
        assert np.array_equal(long[: len(short)], short)
    assert ((cut[1] != IGNORED).sum(axis=0) >= 1).all()


@given(st.lists(st.integers(1, 30), min_size=1, max_size=60), st.integers(1, 9), st.integers(0, 3))
@settings(max_examples=60)
def test_every_epoch_reads_every_pair_once(sizes, batch_size, seed):
    batches, again = (Batches(np.array(sizes), batch_size, 30, seed, JITTER) for _ in range(2))
    steps = 3 * max(1, -(-len(sizes) // batch_size))
    assert steps == 3 * batches.steps_per_epoch
    read = [batches.batch(step).examples for step in range(steps)]
    assert all(np.array_equal(again.batch(step).examples, read[step]) for step in reversed(range(steps)))
    assert all(batches.batch(step).start == 0 and 1 <= len(read[step]) <= batch_size for step in range(steps))
    for epoch in np.split(np.arange(steps), 3):
        assert sorted(np.concatenate([read[step] for step in epoch])) == list(range(len(sizes)))


def test_every_step_has_as_many_lanes_and_those_without_a_pair_do_not_count():
    task = completing(SENTENCES[:11], batch_size=4)
    lanes = [(targets != IGNORED).any(dim=0).sum().item() for _, targets in map(task.window, range(3))]
    assert {inputs.shape[1] for inputs, _ in map(task.window, range(3))} == {4} and sorted(lanes) == [3, 4, 4]


def test_batches_hold_pairs_of_nearly_one_size():
    sizes = np.random.default_rng(0).integers(5, 200, 2000)
    batches = Batches(sizes, 16, 200, 1, JITTER)
    spread = [np.ptp(sizes[batches.batch(step).examples]) for step in range(100)]
    assert np.mean(spread) < 10


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 200))
def test_padded_batches_hold_every_row_once(sizes, tokens):
    sizes = np.array(sizes, dtype=np.int64)
    groups = list(padded_batches(sizes, np.arange(len(sizes)), tokens))
    assert sorted(row for group in groups for row in group.tolist()) == list(range(len(sizes)))
    assert all(len(group) == 1 or len(group) * sizes[group].max() <= tokens for group in groups)


# --- what counts ---


def completing(pairs=SENTENCES, batch_size=4, seq_length=64, prompt_weight=0.0, kind="char"):
    examples = encode_pairs(tokenizer_for(pairs, kind), pairs)
    return CompletionObjective.of(examples, examples, batch_size, seq_length, seed=1, prompt_weight=prompt_weight)


def model_of(cell, symbols, hidden=16):
    torch.manual_seed(1)
    return build_model(ModelConfig(symbols, embedding_size=12, hidden_size=hidden), CELLS[cell])


@pytest.mark.parametrize("weight", [0.0, 0.25])
def test_only_completions_count_unless_prompts_are_given_a_weight(weight):
    task = completing(prompt_weight=weight)
    inputs, targets = task.window(0)
    outputs = torch.randn(*inputs.shape, task.training.separator + 1, requires_grad=True)
    task.loss(outputs, targets).backward()
    length, felt = len(inputs), outputs.grad.abs().sum(dim=-1) > 0
    assert torch.equal(felt, (targets.view(-1, length, targets.shape[1]) != IGNORED).any(dim=0))
    completions = targets[:length] != IGNORED
    assert completions.any() and (felt & ~completions).any() == bool(weight)
    if weight:  # the weight of a prompt token relative to a completion token
        logprobs, ids = outputs.detach().log_softmax(-1), targets.view(2, length, -1).clamp(min=0)
        each = -torch.gather(logprobs, -1, ids.permute(1, 2, 0)).permute(2, 0, 1)
        weights = torch.stack([completions.float(), weight * (targets[length:] != IGNORED).float()])
        expected = (each * weights).sum() / weights.sum()
        assert task.loss(outputs, targets).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_neither_padding_nor_neighbours_change_the_loss_of_a_pair(cell):
    """A pair beside longer ones has the loss that it has alone; those of a batch are averaged by what counts."""
    task = completing()
    model = model_of(cell, task.training.separator + 1).eval()
    total = counted = 0.0
    rows = [0, 35, 7, 20]
    for row in rows:
        inputs, targets, _ = map(torch.from_numpy, task.training.batch([row]))
        number = int((targets != IGNORED).sum())
        total += task.loss(model(inputs)[0], targets).item() * number
        counted += number
    inputs, targets, _ = map(torch.from_numpy, task.training.batch(rows))
    assert task.loss(model(inputs)[0], targets).item() == pytest.approx(total / counted, rel=1e-4)
    score = score_examples(
        TorchStepper(model), encode_pairs(tokenizer_for(SENTENCES), [SENTENCES[row] for row in rows])
    )
    assert (score.loss, score.tokens) == (pytest.approx(total / counted, rel=1e-4), counted)


@pytest.mark.parametrize("weight", [0.0, 0.5])
@pytest.mark.parametrize("number", [2, 3, 5])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(weight, number):
    pairs = [Pair(b"ab" * (7 - size), b"c" * size * size) for size in range(1, 6)]
    task = completing(pairs, batch_size=5, prompt_weight=weight)
    model = model_of("gru", task.training.separator + 1)
    inputs, targets = task.window(3)

    def gradients(edges):
        model.zero_grad()
        for edge in edges:
            lanes = slice(*edge)
            (task.loss(model(inputs[:, lanes])[0], targets[:, lanes]) * task.share(targets, lanes)).backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    for whole, added in zip(gradients([(0, 5)]), gradients(parts(5, number)), strict=True):
        torch.testing.assert_close(added, whole, atol=1e-6, rtol=1e-4)


def test_long_pairs_are_counted_in_a_warning_each_and_none_is_dropped_silently():
    pairs = [Pair(b"ab", b"c"), Pair(b"ab", b"cdefgh"), Pair(b"abcdefgh", b"c"), Pair(b"b", b"cdefgh")]
    assert completing(pairs).warnings() == []
    task = completing(pairs, seq_length=6)
    assert task.warnings() == [
        "2 completions cut at the end: seq_length=6 holds no more.",
        "1 pair left out: the prompt alone fills seq_length=6.",
    ]
    assert {int(row) for step in range(20) for row in task.usable[task.batches.batch(step).examples]} == {0, 1, 3}
    assert max(len(task.window(step)[0]) for step in range(20)) == 6
    with pytest.raises(TextgenError, match=r"^no prompt leaves room for a completion within seq_length=2\.$") as caught:
        completing(pairs, seq_length=2)
    assert caught.value.hint == "seq_length=3 and more has room."


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_learns_to_reverse_words(cell):
    """The second letter comes first, so the first one has to be remembered."""
    task = completing(REVERSING, batch_size=25)
    tokenizer = tokenizer_for(REVERSING)
    model = model_of(cell, tokenizer.vocab_size + 1, hidden=24)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for step in range(250):
        inputs, targets = task.window(step)
        task.loss(model(inputs)[0], targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    config = ModelConfig(tokenizer.vocab_size + 1)
    writer = with_generation_config(config, tokenizer, TorchStepper(model.eval()), habits_of(tokenizer))
    written = write_completions(writer, [pair.prompt.decode() for pair in REVERSING])
    assert exact_matches(written, [pair.completion.decode() for pair in REVERSING]) >= 23


def habits_of(tokenizer):
    return {"begin": [tokenizer.boundary], "prompt_end": [tokenizer.vocab_size],
            "suppress_tokens": list(tokenizer.unsampled), "sampling": {"max_new_tokens": 20}}  # fmt: skip


# --- generation ---


class Insisting:
    """A stepper with fixed logits: the separator is the likeliest token, then the expected one."""

    def __init__(self, symbols, then):
        self.token_bytes, self.then, self.read = symbols, then, []

    def initial_state(self, batch_size):
        return np.zeros(batch_size, int)

    def step(self, ids, state):
        self.read += ids.tolist()
        logits = np.zeros((len(ids), self.token_bytes))
        logits[:, -1] = 100.0
        for row, place in enumerate(state):
            logits[row, self.then[min(place, len(self.then) - 1)]] = 50.0
        return logits, state + 1

    def forward(self, ids, state):
        self.read += ids[0].tolist()
        return np.zeros((len(ids), self.token_bytes)), state

    def select(self, state, indices):
        return state[indices]


@pytest.mark.parametrize("sampling", [{"temperature": 0.0}, {"temperature": 2.0, "seed": 3}, {"num_beams": 3}])
def test_the_separator_ends_the_prompt_and_is_never_generated_and_the_boundary_ends_the_text(sampling):
    tokenizer = tokenizer_for(REVERSING)
    then = [*tokenizer.encode("cab").tolist(), tokenizer.boundary]
    stepper = Insisting(tokenizer.vocab_size + 1, then)
    writer = with_generation_config(ModelConfig(tokenizer.vocab_size + 1), tokenizer, stepper, habits_of(tokenizer))
    assert writer.encode_prompt("ab").tolist() == [
        tokenizer.boundary, *tokenizer.encode("ab").tolist(), tokenizer.vocab_size]  # fmt: skip
    assert generate(writer, "ab", **sampling) == "cab"
    assert stepper.read.count(tokenizer.vocab_size) == 1


@pytest.mark.parametrize("prompt", ["fox hen", "fox hen "])
def test_a_completion_in_words_does_not_begin_with_a_space(prompt):
    tokenizer = WordTokenizer(["fox", "hen", "cat"])
    then = [*tokenizer.encode("cat hen").tolist(), tokenizer.boundary]
    stepper = Insisting(tokenizer.vocab_size + 1, then)
    writer = with_generation_config(ModelConfig(tokenizer.vocab_size + 1), tokenizer, stepper, habits_of(tokenizer))
    assert generate(writer, prompt, temperature=0) == "cat hen"
    assert Session.begin(writer, prompt).write(temperature=0)[0] == "cat hen"


def test_a_separator_that_cannot_be_is_refused():
    tokenizer = tokenizer_for(REVERSING)
    size = tokenizer.vocab_size
    for wrong in ([size + 1], [-1], [True], ["a"], "a", {"a": 1}, [size] * 2000):
        with pytest.raises(storage.DamagedError, match=r"^generation_config\.json is damaged: .*\.$"):
            with_generation_config(
                ModelConfig(size + 1), tokenizer, None, {**habits_of(tokenizer), "prompt_end": wrong}
            )


# --- a run ---

SMALL = {
    "prompt_column": "intent", "completion_column": "snippet", "hidden_size": 24, "threads": 1, "sample_steps": 0,
    "tokenizer": "char", "batch_size": 5, "device": "cpu",
}  # fmt: skip
WHOLE = {**SMALL, "max_steps": 7, "eval_steps": 3, "save_steps": 2, "logging_steps": 1, "dropout": 0.2,
         "learning_rate": 0.02, "save_total_limit": 9}  # fmt: skip


@pytest.fixture
def quick_disk(monkeypatch):
    monkeypatch.setattr(filesystem, "system", Quick())


def reversing(folder):
    return table(folder, [{"intent": word, "snippet": word[::-1]} for word in WORDS], "words.jsonl")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model that reverses words, and its run."""
    folder = tmp_path_factory.mktemp("trained")
    return textgen.train(
        reversing(folder), output_dir=str(folder / "run"), cell="gru", max_steps=300, learning_rate=0.02, dropout=0.0,
        eval_steps=100, **SMALL)  # fmt: skip


def end_of(folder):
    storage.verify(folder)
    last = folder / "checkpoint-7"
    metrics = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    lines = [{name: value for name, value in line.items() if name != "tokens_per_second"} for line in metrics]
    return [
        (folder / WEIGHTS).read_bytes(),
        *((last / name).read_bytes() for name in (WEIGHTS, OPTIMIZER, STATE)),
    ], lines


@pytest.mark.parametrize("options", [
    *({"cell": cell} for cell in ONCE),
    {"cell": "gru", "average_weights": 0.9, "gradient_accumulation_steps": 2, "prompt_loss_weight": 0.3},
], ids=lambda options: " ".join(map(str, options.values())))  # fmt: skip
def test_a_run_stopped_after_any_step_goes_on_with_the_same_bits(tmp_path, options, quick_disk):
    path = reversing(tmp_path)
    whole = textgen.train(path, output_dir=str(tmp_path / "whole"), **WHOLE, **options)
    asked = options_for({**WHOLE, **options, "output_dir": str(tmp_path / "stopped")})
    session, reasons = start([str(path)], asked, time.monotonic()), []
    while reasons[-1:] != ["done"]:
        session.trainer.stop = True
        reasons.append(list(session.events())[-1].reason)
        session = resume(session.run.folder, {})
    assert len(reasons) == 8 and end_of(whole) == end_of(tmp_path / "stopped")


def test_a_trained_model_completes_what_it_was_shown(trained):
    for backend in ("numpy", "torch"):
        model = textgen.load(trained, backend)
        written = write_completions(model, WORDS)
        assert exact_matches(written, [word[::-1] for word in WORDS]) >= 22
        assert generate(model, "ab", temperature=0) == "ba"
        assert "".join(textgen.stream(model, "ab", temperature=0)) == "ba"
        assert generate(model, "ab", num_beams=3) == "ba"
        assert Session.begin(model, "ab", seed=1).write(temperature=0)[0] == "ba"
        assert Session.begin(model, "ab", seed=1).ask("cd").write(temperature=0)[0] == "dc"


def test_both_runtimes_score_and_write_alike(trained):
    pairs = [*REVERSING, Pair(b"a", b"long one"), Pair("ä".encode(), b"?")]
    numpy, torch_ = (evaluate_pairs(textgen.load(trained, name), pairs) for name in ("numpy", "torch"))
    assert (numpy.exact, numpy.bleu) == (torch_.exact, torch_.bleu)
    assert numpy.score.loss == pytest.approx(torch_.score.loss, rel=1e-5)
    assert numpy.score.bytes == sum(len(pair.completion) for pair in pairs)


def test_completions_generated_in_a_batch_are_those_generated_alone(trained):
    model = textgen.load(trained)
    prompts = [*WORDS, "a", "abc", *WORDS, *WORDS]
    assert write_completions(model, prompts) == [generate(model, prompt, temperature=0) for prompt in prompts]


def test_a_state_that_was_kept_goes_on(trained, tmp_path):
    model = textgen.load(trained)
    text, after = Session.begin(model, "ab", seed=1).write(temperature=0, max_new_tokens=1)
    after.save(tmp_path / "state")
    assert text + Session.load(model, tmp_path / "state").write(temperature=0)[0] == "ba"


def test_a_model_starts_from_one_that_knows_the_letters(trained, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("abcde edcba ace bd " * 20)
    known = textgen.train(text, output_dir=str(tmp_path / "lm"), max_steps=5, hidden_size=24, threads=1, cell="gru",
                          tokenizer="char", sample_steps=0)  # fmt: skip
    small = {name: value for name, value in SMALL.items() if name not in ("hidden_size", "tokenizer")}
    options = options_for({**small, "init_from": str(known), "output_dir": str(tmp_path / "run")})
    session = start([str(reversing(tmp_path))], replace(options, max_steps=1), time.monotonic())
    old, new = textgen.load(known, "torch").stepper._model, session.trainer.model
    tokenizers = tokenizer_of(known), session.data.tokenizer
    rows = [[tokenizer.token_bytes.index(b) for b in (b"a", b"e")] + [tokenizer.boundary] for tokenizer in tokenizers]
    assert torch.equal(old.encoder.weight[rows[0]], new.encoder.weight[rows[1]])
    assert torch.allclose(new.encoder.weight[-1], old.encoder.weight.mean(0))
    assert session.notes[0].endswith("new: 'separator'")
    again = options_for({**small, "init_from": str(trained), "output_dir": str(tmp_path / "again")})
    session = start([str(reversing(tmp_path))], replace(again, max_steps=1), time.monotonic())
    theirs = textgen.load(trained, "torch").stepper._model
    assert torch.equal(session.trainer.model.encoder.weight[-1], theirs.encoder.weight[-1])
    assert session.notes[0].endswith("tokens are known")


def test_what_is_copied_is_looked_for_in_the_completions(trained):
    model = textgen.load(trained)
    copied = model.training_text.longest("xxbaxx")
    assert copied.text == "ba" and copied.character == 0
    assert generate(model, "ab", temperature=0, max_copy=1) != "ba"


def test_a_store_is_kept_and_made_again(trained, tmp_path):
    folder = shutil.copytree(trained.parent, tmp_path / "copy")
    data = data_of(folder / "run")
    assert [pair for pair in data.held_out_pairs() if pair not in REVERSING] == [] and len(data.held_out_pairs()) == 2
    assert len(data.training) == 23 and data.training_tokens == data.training.tokens
    shutil.rmtree(data.folder)
    assert data_of(trained).digests() == data.digests()
    ids = data.text_ids()
    assert (ids == data.tokenizer.boundary).sum() == 23 and len(ids) == 3 * 23


@pytest.mark.parametrize(
    ("part", "name", "wrong"),
    [
        ("train", "ids", lambda found: found[:-1]),
        ("train", "ids", lambda found: np.full_like(found, 7)),
        ("train", "sizes", lambda found: found.ravel()),
        ("train", "sizes", lambda found: -found),
        ("train", "more", lambda found: np.zeros(1)),
        ("validation", "text", lambda found: found[1:]),
        ("validation", "text_sizes", lambda found: found.astype(float)),
        ("validation", "sizes", lambda found: found[:1]),
        ("about", "train", lambda found: {}),
        ("about", "validation", lambda found: {**found, "bytes": "2"}),
    ],
)
def test_a_store_that_contradicts_itself_is_refused(trained, tmp_path, part, name, wrong):
    store = data_of(trained).store
    tables = {**{key: dict(arrays) for key, arrays in store.parts.items()}, "about": dict(store.about)}
    tables[part][name] = wrong(tables[part].get(name))
    about = {key: tables["about"][key] for key in store.parts}
    others = {key: store.content(key) for key in store.about["files"] if key.startswith("tokenizer")}
    write_examples(tmp_path / "store", "pairs", "key", {key: tables[key] for key in store.parts}, about, others)
    with pytest.raises(TextgenError, match=r" is damaged: its pairs do not have the recorded sizes\.$"):
        CompletionData.open(tmp_path / "store")


def test_a_file_of_its_own_is_held_out(tmp_path):
    other = table(tmp_path, [{"intent": "ab", "snippet": "x"}], "other.jsonl")
    asked = options_for( {**SMALL, "validation_file": str(other), "max_steps": 1,
                                        "output_dir": str(tmp_path / "run")})  # fmt: skip
    session = start([str(reversing(tmp_path))], asked, time.monotonic(), dry_run=True)
    assert session.data.held_out_pairs() == [Pair(b"ab", b"x")] and len(session.data.training) == 25


# --- the command ---


def test_the_command_samples_evaluates_and_tells(trained, tmp_path):
    assert run("sample", "-m", trained, "--prompt", "ab", "--greedy").out == b"ba\n"
    several = run("sample", "-m", trained, "--prompt", "ab", "--num-samples", "2", "--seed", "1", "--json").out
    assert [json.loads(line)["finish_reason"] for line in several.splitlines()] == ["stop", "stop"]
    together = run("sample", "-m", trained, "-i", "--greedy", stdin=b"ab\ncd\n")
    assert together.out == b"ba\ndc\n"
    held = json.loads(run("evaluate", "-m", trained, "--json").out)
    assert held["pairs"] == 2 and 0 <= held["exact_match"] <= 1 and held["completion_loss"] == held["nats_per_token"]
    printed = run("evaluate", reversing(tmp_path), "-m", trained).out.decode()
    found = re.fullmatch(r"[\d.]+ nats per token of the completions · [\d.]+ bits per byte · exact match ([\d.]+)% "
                         r"\((\d+) of 25 pairs\) · BLEU [\d.]+\n", printed)  # fmt: skip
    assert found and int(found[2]) >= 22 and float(found[1]) == int(found[2]) * 4


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--prompt-column", "intent"], "--prompt-column intent goes with --completion-column, which is missing."),
        (["--completion-column", "a"], "--completion-column a goes with --prompt-column, which is missing."),
        (["--prompt-column", "intent", "--completion-column", "code"],
         "'words.jsonl' has no column 'code'; its columns are 'intent', 'snippet'."),
        (["--task", "complete"], "the task complete needs pairs of two columns."),
        (["--task", "lm", "--prompt-column", "intent", "--completion-column", "snippet"],
         "--prompt-column goes with --task complete, not with lm."),
        (["--prompt-column", "intent", "--completion-column", "snippet", "--document-separator", "|"],
         "--document-separator goes with --task lm or --task classify, not with complete."),
    ],
)  # fmt: skip
def test_the_command_refuses_in_a_sentence(tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    reversing(tmp_path)
    assert refusal(run("train", "words.jsonl", *arguments), 2)[0] == sentence


def test_the_command_refuses_what_is_no_table_and_a_prompt_that_is_none(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text("ab\tba\n")
    columns = ["--prompt-column", "a", "--completion-column", "b"]
    assert "'words.txt' is not a table" in run("train", "words.txt", *columns).err
    assert "pairs are not read from the Hub ('hub:a/b')." in run("train", "hub:a/b", *columns).err
    assert refusal(run("sample", "-m", trained), 2)[0] == "this model completes prompts, and no prompt is given."


def test_a_model_folder_with_another_separator_is_refused(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "model")
    habits = json.loads((folder / GENERATION).read_text())
    for wrong in ([], [habits["prompt_end"][0] - 1], [*habits["prompt_end"], habits["prompt_end"][0] + 1], 7):
        filesystem.replace_in_folder(folder, GENERATION, filesystem.to_json({**habits, "prompt_end": wrong}))
        with pytest.raises(storage.DamagedError, match=r"is damaged: its tokenizer has 7 tokens.*, its model 8\.$"):
            textgen.load(folder)
