"""Laws of classification: neither neighbours nor padding nor window size change a prediction; metrics are those
computed by hand; every label is trained on and held out; a missing label is reported with its row and column."""

import json
import re
import shutil
import subprocess
import sys
import threading
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from faults import Quick
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from sayings import TINY, csv_of, sayings
from zoo import CELLS, INSTALLED

import textgen
from textgen import storage
from textgen.cli import group
from textgen.data.sources import SourceOptions, find_sources
from textgen.data.store import no_progress
from textgen.data.tokenizers import ByteTokenizer, train_tokenizer
from textgen.errors import TextgenError, UsageError
from textgen.generation.sampling import log_softmax
from textgen.model import ModelConfig
from textgen.model.stack import build_model
from textgen.storage import filesystem
from textgen.tasks import options_for
from textgen.tasks.classification.model import Classifier, Pool, log_probabilities
from textgen.tasks.classification.objective import ClassificationObjective, class_weights, pooled
from textgen.tasks.classification.options import POOLINGS
from textgen.tasks.classification.reading import (
    chosen_columns,
    find_labelled,
    label_of,
    lines,
    read_labelled,
    read_texts,
    scan_labels,
    sorted_labels,
)
from textgen.tasks.data import CHUNK, LabelledTexts, Texts, hold_out
from textgen.tasks.metrics import ClassificationMetrics, calibration_error
from textgen.tasks.objective import Batches, RareTokens
from textgen.training.start import resume, start

READING = SourceOptions()

# --- metrics ---


def test_metrics_are_those_counted_by_hand():
    true = np.array([0, 0, 0, 1, 1, 2])
    predicted = np.array([0, 0, 1, 1, 2, 2])
    probabilities = np.full((6, 3), 0.1)
    probabilities[np.arange(6), predicted] = 0.8
    metrics = ClassificationMetrics.of("abc", true, np.log(probabilities))
    assert metrics.confusion.tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]
    assert metrics.accuracy == pytest.approx(4 / 6)
    precision, recall = np.array([1, 1 / 2, 1 / 2]), np.array([2 / 3, 1 / 2, 1])
    assert metrics.f1 == pytest.approx(2 * precision * recall / (precision + recall))
    assert metrics.macro_f1 == pytest.approx((0.8 + 0.5 + 2 / 3) / 3)
    assert metrics.loss == pytest.approx(-(4 * np.log(0.8) + 2 * np.log(0.1)) / 6)
    assert metrics.calibration_error == pytest.approx(0.8 - 4 / 6)
    assert json.loads(json.dumps(metrics.to_json()))["texts"] == 6


def test_a_label_that_neither_occurs_nor_is_predicted_is_left_out_of_macro_f1():
    metrics = ClassificationMetrics.of("abc", np.array([0, 1]), np.log(np.array([[0.7, 0.2, 0.1], [0.2, 0.7, 0.1]])))
    assert metrics.macro_f1 == 1 and metrics.to_json()["f1"] == [1, 1, None]


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40))
def test_calibration_error_is_that_of_its_definition(answers):
    confidence, right = np.array([p for p, _ in answers]), np.array([r for _, r in answers])
    by_hand = 0.0
    for k in range(15):
        inside = (confidence > k / 15) & (confidence <= (k + 1) / 15) | ((confidence == 0) & (k == 0))
        if inside.any():
            by_hand += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert calibration_error(confidence, right) == pytest.approx(by_hand, abs=1e-9)


@given(st.integers(1, 50), st.data())
def test_fewer_errors_are_better_whatever_the_loss(texts, data):
    few = data.draw(st.integers(0, texts - 1))
    losses = data.draw(st.tuples(st.floats(0, 700), st.floats(0, 700)))
    better, worse = (
        ClassificationMetrics(("a", "b"), np.array([[texts - wrong, wrong], [0, 0]]), loss * texts, 0.0)
        for wrong, loss in zip((few, few + 1), losses, strict=True)
    )
    assert better.criterion < worse.criterion


def test_of_equal_errors_the_lower_loss_is_better():
    low, high = (ClassificationMetrics(("a", "b"), np.array([[9, 1], [0, 0]]), nats, 0.0) for nats in (3.0, 4.0))
    assert low.criterion < high.criterion


# --- order ---


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 8), st.integers(1, 12))
def test_an_epoch_reads_every_token_once_in_order(lengths, batch, window):
    batches = Batches(np.array(lengths), batch, window, seed=3)
    for epoch in range(2):
        read = {text: [] for text in range(len(lengths))}
        for step in range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch):
            found = batches.batch(step)
            assert len(found.examples) <= batch and len(set(found.examples)) == len(found.examples)
            counted = 0
            for text in found.examples:
                begin = found.start
                tokens = range(begin, min(begin + window, lengths[text]))
                counted += len(tokens)
                read[int(text)] += tokens
            assert counted, "a step that reads nothing would teach nothing"
        assert read == {text: list(range(length)) for text, length in enumerate(lengths)}


def test_order_depends_on_seed_and_step_alone():
    lengths = np.arange(1, 200) % 37 + 1
    one, other = Batches(lengths, 8, 16, 5), Batches(lengths, 8, 16, 5)
    steps = range(3 * one.steps_per_epoch)
    there = {step: one.batch(step) for step in steps}
    for step in reversed(steps):
        assert other.batch(step).start == there[step].start
        assert other.batch(step).examples.tolist() == there[step].examples.tolist()
    reseeded = Batches(lengths, 8, 16, 6)
    assert any(reseeded.batch(step).examples.tolist() != there[step].examples.tolist() for step in steps)
    first, second = (sorted(there[k].examples.tolist()) for k in (0, one.steps_per_epoch))
    assert first != second


# --- pooling ---


@pytest.mark.parametrize("pooling", POOLINGS)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=5), st.integers(1, 9), st.integers(0, 5))
def test_pooling_by_windows_is_pooling_at_once(pooling, lengths, window, padding):
    rng = np.random.default_rng(len(lengths))
    outputs = rng.normal(size=(max(lengths) + padding, len(lengths), 3)).astype(np.float32)
    pool = Pool(pooling)
    for begin in range(0, max(lengths), window):
        own = np.clip(np.array(lengths) - begin, 0, window)
        pool.add(outputs[begin : begin + window], own)
    for lane, length in enumerate(lengths):
        own = outputs[:length, lane].astype(np.float64)
        wanted = {"last": own[-1], "mean": own.mean(axis=0), "max": own.max(axis=0)}[pooling]
        assert pool.pooled()[lane] == pytest.approx(wanted, abs=1e-9)
    trained = pooled(torch.from_numpy(outputs), torch.tensor(lengths) - 1, pooling).numpy()
    assert trained == pytest.approx(pool.pooled(), abs=1e-5)


def test_the_mean_of_outputs_is_the_readout_of_the_mean_state():
    readout, states = torch.nn.Linear(7, 3), torch.randn(9, 2, 7)
    last = torch.tensor([8, 4])
    mean = torch.stack([states[: n + 1, lane].mean(0) for lane, n in enumerate(last)])
    assert torch.allclose(pooled(readout(states), last, "mean"), readout(mean), atol=1e-6)


def test_probabilities_add_up_to_one():
    probabilities = np.exp(log_softmax(np.array([[1000.0, 0.0, -1000.0], [1.0, 1.0, 1.0]])))
    assert probabilities.sum(axis=1) == pytest.approx([1, 1]) and probabilities[1] == pytest.approx([1 / 3] * 3)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(0, 11), st.integers(1, 6))
def test_a_window_of_texts_holds_their_tokens(lengths, start, length):
    arrays = [np.arange(n, dtype=np.int32) + 100 * k for k, n in enumerate(lengths)]
    if start >= max(lengths):
        return
    ids, own = Texts.of(arrays).window(np.arange(len(lengths)), start, length)
    for lane, whole in enumerate(arrays):
        assert ids[: own[lane], lane].tolist() == whole[start : start + length].tolist()
        assert not ids[own[lane] :, lane].any()


# --- weights and what is held out ---


def test_balanced_labels_weigh_the_same():
    labels = np.array([0] * 8 + [1] * 2 + [2] * 6)
    weights = class_weights("balanced", labels, 3)
    assert [weights[labels][labels == label].sum() for label in range(3)] == pytest.approx([16 / 3] * 3)
    assert weights[labels].mean() == pytest.approx(1)
    assert class_weights("none", labels, 3).tolist() == [1, 1, 1]


@given(st.lists(st.integers(2, 60), min_size=2, max_size=5), st.floats(0.01, 0.9), st.integers(0, 99))
def test_every_label_is_learned_from_and_held_out(counts, share, seed):
    numbers = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    held = hold_out(numbers, share, seed)
    for label, count in enumerate(counts):
        own = held[numbers == label].sum()
        assert 1 <= own < count and abs(own - share * count) <= 1
    assert held.tolist() == hold_out(numbers, share, seed).tolist()


def test_what_is_held_out_depends_on_the_seed():
    numbers = np.arange(200) % 2
    assert hold_out(numbers, 0.1, 1).tolist() != hold_out(numbers, 0.1, 2).tolist()
    assert not hold_out(numbers, 0.0, 1).any()


# --- reading ---

ROWS = [("a fine film", "pos"), ("a bad film", "neg"), ('he said "no", twice\nand left', "neg"), ("très bien", "pos")]


def labelled(paths, text=None, label=None):
    origins = find_labelled([str(path) for path in paths], text)
    reading = SourceOptions(text_column=text)
    return [(b"".join(t.chunks).decode(), t.label) for t in read_labelled(origins, reading, label)]


def test_tables_of_every_kind_say_the_same(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    csv_of(ROWS, tmp_path / "a.csv")
    csv_of(ROWS, tmp_path / "a.tsv")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t, "label": k}) + "\n" for t, k in ROWS))
    texts, kinds = zip(*ROWS, strict=True)
    parquet.write_table(pyarrow.table({"text": list(texts), "label": list(kinds)}), tmp_path / "a.parquet")
    for name in ("a.csv", "a.tsv", "a.jsonl", "a.parquet"):
        assert labelled([tmp_path / name]) == ROWS, name


def test_a_data_set_of_the_hub_is_a_table(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    (tmp_path / "owner" / "name").mkdir(parents=True)
    rows = [{"id": k, "sentence": text, "kind": len(label)} for k, (text, label) in enumerate(ROWS)]
    (tmp_path / "owner" / "name" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    origins = find_labelled(["hub:owner/name"], None, "kind")
    found = [(b"".join(t.chunks).decode(), t.label) for t in read_labelled(origins, READING, "kind")]
    assert found == [(text, "3") for text, _ in ROWS]


def folders(rows, root):
    for number, (text, label) in enumerate(rows):
        (root / label).mkdir(parents=True, exist_ok=True)
        (root / label / f"{number}.txt").write_text(text)
    return root


def test_a_folder_a_label_says_what_a_table_does(tmp_path):
    root = folders(ROWS, tmp_path / "reviews")
    assert sorted(labelled([root])) == sorted(ROWS)
    assert sorted(labelled([root / "pos", root / "neg"])) == sorted(ROWS)


@pytest.mark.parametrize(("value", "label"), [
    ("pos", "pos"), (" pos ", "pos"), ("1", "1"), (1, "1"), (1.0, "1"), (0.5, "0.5"), (True, "true"), (-1, "-1"),
])  # fmt: skip
def test_numbers_and_truth_values_are_labels(value, label):
    assert label_of(value, "label", "row 1") == label


def test_labels_that_are_numbers_are_in_their_order():
    assert sorted_labels({"10", "9", "-1"}) == ("-1", "9", "10")
    assert sorted_labels({"10", "9", "b"}) == ("10", "9", "b")


@pytest.mark.parametrize(("rows", "said"), [
    ([*ROWS, ("so so", "")], r"row 5 of '.*x.csv' has no label (column 'label' is empty)."),
    ([*ROWS, ("so so", "  ")], r"row 5 of '.*x.csv' has no label (column 'label' is empty)."),
    ([*ROWS, ("", "pos")], r"row 5 of '.*x.csv' has no text (column 'text' is empty)."),
    ([*ROWS, (" ", "pos")], r"row 5 of '.*x.csv' has no text (column 'text' is empty)."),
    ([*ROWS, ("so so", "meh")], r"only one text has the label 'meh' (row 5 of '.*x.csv'); a label needs one to train "
                                r"on and one to hold out."),
    ([("a", "pos"), ("b", "pos")], r"every text has the label 'pos'; at least two labels are needed."),
    ([*ROWS, ("so so", "x" * 201)], r"row 5 of '.*x.csv': column 'label' holds 201 characters, which are no label."),
    ([], r"corpus '.*x.csv' has no rows."),
])  # fmt: skip
def test_what_says_no_label_is_refused_in_a_sentence(tmp_path, rows, said):
    path = csv_of(rows, tmp_path / "x.csv")
    with pytest.raises(TextgenError, match=f"^{re.escape(said).replace(re.escape('.*'), '.*')}$"):
        scan_labels(read_labelled(find_labelled([str(path)], None), READING), no_progress)


@pytest.mark.parametrize(("value", "said"), [
    (["pos"], "holds a list, which is no label"), (None, "has no label"), (float("nan"), "has no label"),
])  # fmt: skip
def test_cells_that_are_no_label(value, said):
    with pytest.raises(TextgenError, match=f"row 3.*{said}"):
        label_of(value, "label", "row 3 of 'x.jsonl'")


@pytest.mark.parametrize(("columns", "text", "label", "said"), [
    (["text", "stars"], None, None, "'x.csv' has no column 'label'; its columns are 'text', 'stars'"),
    (["text", "label"], None, "labels", "no column 'labels'; its columns are 'text', 'label'. Did you mean 'label'?"),
    (["a", "b", "label"], None, None, "has no column 'text'; its columns are 'a', 'b'"),
    (["text", "label"], "label", "label", "column 'label' cannot hold both"),
    (["text", "label"], "txt", None, "has no column 'txt'"),
])  # fmt: skip
def test_a_column_that_is_not_there_is_named(columns, text, label, said):
    with pytest.raises(UsageError, match=re.escape(said)):
        chosen_columns(columns, "x.csv", text, label)


@pytest.mark.parametrize(("columns", "text", "label", "chosen"), [
    (["label", "text", "id"], None, None, ["text", "label"]),
    (["review", "label"], None, None, ["review", "label"]),
    (["review", "stars", "id"], "review", "stars", ["review", "stars"]),
])  # fmt: skip
def test_columns_are_found(columns, text, label, chosen):
    assert chosen_columns(columns, "x.csv", text, label) == chosen


def test_plain_text_says_no_label(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UsageError, match=r"'.*notes.txt' is plain text, but no folder names its label"):
        find_labelled([str(tmp_path)], None)


def test_an_empty_file_in_a_labels_folder_is_named(tmp_path):
    root = folders([*ROWS, (" \n", "pos")], tmp_path / "reviews")
    with pytest.raises(TextgenError, match=r"'.*4.txt' has no text \(only white space\)"):
        labelled([root])


@given(st.text(alphabet="ab\n", max_size=40), st.integers(1, 7))
def test_lines_do_not_depend_on_the_chunks(text, size):
    data = text.encode()
    found = list(lines(data[start : start + size] for start in range(0, len(data), size)))
    whole = data.split(b"\n")
    assert found == (whole[:-1] if whole[-1] == b"" else whole)


def test_lines_files_and_columns_are_texts(tmp_path):
    (tmp_path / "a.txt").write_text("one\r\n\ntwo\n")
    csv_of([("x", "pos"), ("", "neg")], tmp_path / "b.csv")
    sources = find_sources([str(tmp_path / "a.txt"), str(tmp_path / "b.csv")])
    found = [(t.where.split(" of")[0], b"".join(t.chunks)) for t in read_texts(sources, READING)]
    assert found == [("line 1", b"one"), ("line 2", b""), ("line 3", b"two"), ("row 1", b"x"), ("row 2", b"")]
    whole = [b"".join(t.chunks) for t in read_texts(sources[:1], READING, whole_files=True)]
    assert whole == [b"one\r\n\ntwo\n"]


# --- from a table to a model ---

ONCE = [next(name for name in INSTALLED if INSTALLED[name] is cell) for cell in dict.fromkeys(INSTALLED.values())]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return csv_of(sayings(120), tmp_path_factory.mktemp("sayings") / "sayings.csv")


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    monkeypatch.setattr(filesystem, "system", Quick())


def trained(table, folder, **options):
    return textgen.train(table, output_dir=str(folder), **{**TINY, **options})


@pytest.fixture(scope="module")
def models(table, tmp_path_factory):
    """A trained model for each way of pooling."""
    root = tmp_path_factory.mktemp("models")
    return {pooling: trained(table, root / pooling, pooling=pooling) for pooling in POOLINGS}


@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_pooling_learns(models, pooling):
    model = textgen.load(models[pooling])
    texts = sayings(60, seed=1)
    predictions = model.classify(text for text, _ in texts)
    assert np.mean([answer.label == label for answer, (_, label) in zip(predictions, texts, strict=True)]) > 0.9
    assert all(sum(answer.probabilities.values()) == pytest.approx(1) for answer in predictions)


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_learns_labels(name):
    """Told apart by a word, as the trainer does it, from texts that are longer than a window too."""
    torch.manual_seed(1)
    rows = sayings(48)
    tokenizer = train_tokenizer("word", [[text.encode()] for text, _ in rows], 100)
    texts = Texts.of([tokenizer.encode(text) for text, _ in rows])
    labels = np.array([int(label == "pos") for _, label in rows])
    parts = LabelledTexts(texts, labels)
    task = ClassificationObjective(
        Batches(texts.lengths, 16, 12, 0), parts, parts, ("neg", "pos"), "mean", np.ones(2, np.float32),
        RareTokens(np.zeros(tokenizer.vocab_size, np.float32), None),
    )  # fmt: skip
    config = ModelConfig(tokenizer.vocab_size, embedding_size=8, hidden_size=8, task="classify", outputs=2)
    model = build_model(config, CELLS[name])
    optimizer, carry = torch.optim.AdamW(model.parameters(), lr=0.03), ()
    for step in range(120):
        ids, targets = task.window(step)
        carry = task.window_state(step, model.initial_state(ids.shape[1]), carry)
        outputs, carry = model(ids, carry)
        task.loss(outputs, targets).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        carry = tuple(tensor.detach() for tensor in carry)
    assert task.evaluate(model, quick=False).accuracy > 0.9


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_neither_neighbours_nor_padding_change_an_answer(models, pooling, backend):
    model = textgen.load(models[pooling], backend)
    texts = [text for text, _ in sayings(40, seed=2)] + ["fine " * 700, "w1"]
    together = model.classify(texts)
    for text, answer in zip(texts, together, strict=True):
        alone = model.classify([text])[0]
        assert alone.probabilities["pos"] == pytest.approx(answer.probabilities["pos"], abs=1e-6)
    back = model.classify(reversed(texts))[::-1]
    for one, other in zip(together, back, strict=True):
        assert one.probabilities["pos"] == pytest.approx(other.probabilities["pos"], abs=1e-6)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_numpy_predicts_what_torch_predicts(models, pooling):
    texts = [text for text, _ in sayings(30, seed=3)]
    one, other = (textgen.load(models[pooling], backend).classify(texts) for backend in ("numpy", "torch"))
    for a, b in zip(one, other, strict=True):
        assert a.probabilities["pos"] == pytest.approx(b.probabilities["pos"], abs=1e-5)


def test_a_text_is_read_in_windows_as_it_is_at_once(models):
    """The reference is the model itself, over the whole text."""
    folder = models["mean"]
    model = textgen.load(folder, "torch")
    text = " ".join(word for text, _ in sayings(400, seed=4) for word in text.split())
    ids = np.concatenate([[model.tokenizer.boundary], model.tokenizer.encode(text)])
    assert len(ids) > 2 * CHUNK
    outputs, _ = model.reader.outputs(ids[None].astype(np.int32), model.reader.initial_state(1))
    scores = outputs.astype(np.float64).mean(axis=0)
    wanted = np.exp(log_softmax(scores / model.temperature))[0]
    assert list(model.classify([text])[0].probabilities.values()) == pytest.approx(wanted, abs=1e-6)
    encoded = Texts.of([ids[:9], ids, ids[:4]])
    wanted = np.exp(log_softmax(scores))[0]
    assert np.exp(log_probabilities(model.reader, encoded, "mean")[1]) == pytest.approx(wanted, abs=1e-6)


class Watched:
    """A reader that gives zeros and remembers the most tokens it read at once."""

    longest = 0

    def initial_state(self, batch_size):
        return ()

    def outputs(self, ids, state):
        self.longest = max(self.longest, ids.shape[1])
        return np.zeros((ids.shape[1], len(ids), 2), np.float32), state


def test_memory_does_not_grow_with_a_text():
    """Sixteen million tokens take no more memory than four."""
    model = Classifier(ModelConfig(257), ByteTokenizer(), Watched(), ("neg", "pos"), "last")
    peaks = []
    for megabytes in (4, 16):
        tracemalloc.start()
        (answer,) = model.stream([(b"fine dull" * 1000 for _ in range(megabytes * 111))])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert answer.probability == 0.5
    assert peaks[1] < 1.2 * peaks[0]
    log_probabilities(model.reader, Texts.of([np.zeros(3 * CHUNK, np.int32)]), "last")
    assert model.reader.longest == CHUNK


def test_what_is_padded_has_no_gradient(table, tmp_path):
    """Tokens after the end of a text reach neither the loss nor the gradient."""
    session = start([str(table)], options_for({**TINY, "output_dir": str(tmp_path / "run")}), 0.0)
    task, model = session.trainer.objective, session.trainer.model
    windows = (task.window(step) for step in range(task.steps_per_epoch))
    ids, targets = next(each for each in windows if (each[1][1] < len(each[0]) - 1).any())
    padded = torch.arange(len(ids))[:, None] > targets[1]
    losses = []
    for filler in (0, 3):
        found = ids.masked_fill(padded, filler)
        outputs, _ = model(found)
        for pooling in POOLINGS:
            losses.append(replace(task, pooling=pooling).loss(outputs, targets).item())
    assert losses[:3] == losses[3:]


def test_training_windows_with_the_state_carried_are_the_whole_text(table, tmp_path):
    """The outputs of a step's windows, one after another, are those of its texts read at once."""
    session = start([str(table)], options_for({**TINY, "output_dir": str(tmp_path / "run")}), 0.0)
    task, model = (
        replace(session.trainer.objective, rare=RareTokens(np.zeros(1, np.float32), None)),
        session.trainer.model,
    )
    carry, seen, longest = (), [], 0
    for step in range(task.steps_per_epoch):
        found = task.batches.batch(step)
        ids, targets = task.window(step)
        carry = task.window_state(step, model.initial_state(ids.shape[1]), carry)
        outputs, carry = model(ids, carry)
        seen = [*seen, outputs] if found.start else [outputs]
        longest = max(longest, found.start // task.batches.seq_length + 1)
        for lane, text in enumerate(found.examples):
            if targets[0, lane] >= 0:
                begin, end = task.train.texts.ends[text] - task.train.texts.lengths[text], task.train.texts.ends[text]
                whole, _ = model(torch.from_numpy(task.train.texts.ids[begin:end].astype(np.int64))[:, None])
                read = found.start + int(targets[1, lane]) + 1
                assert torch.allclose(torch.cat(seen)[:read, lane], whole[:read, 0], atol=1e-5)
                assert int(targets[0, lane]) == task.train.labels[text]
    assert longest > 1


def test_parts_of_a_batch_add_up_to_the_whole(table, tmp_path):
    options = {**TINY, "class_weights": "balanced", "batch_size": 7}
    session = start([str(table)], options_for({**options, "output_dir": str(tmp_path / "run")}), 0.0)
    task = session.trainer.objective
    ragged = next(step for step in range(task.steps_per_epoch) if (task.window(step)[1][0] < 0).any())
    for step in (0, ragged):
        ids, targets = task.window(step)
        outputs = torch.randn(len(ids), ids.shape[1], 2)
        whole = task.loss(outputs, targets)
        parts = [slice(0, 3), slice(3, 6), slice(6, 7)]
        summed = sum(task.loss(outputs[:, p], targets[:, p]) * task.share(targets, p) for p in parts)
        assert summed.item() == pytest.approx(whole.item(), abs=1e-6)


def test_a_script_without_spaces_is_cut_into_characters(tmp_path):
    rows = [
        (f"这部电影很{word}我们都{word}极了今天晚上", label)
        for word, label in (("好", "pos"), ("坏", "neg"))
        for _ in range(9)
    ]
    session = start(
        [str(csv_of(rows, tmp_path / "x.csv"))],
        options_for({**TINY, "output_dir": str(tmp_path / "r")}),
        0.0,
    )
    assert session.data.tokenizer.kind == "char"


# --- stopping and going on ---


@pytest.mark.parametrize("cell", ONCE)
def test_a_run_stopped_after_any_step_goes_on_with_the_same_bits(table, tmp_path, cell):
    options = {**TINY, "cell": cell, "dropout": 0.3, "max_steps": 13, "eval_steps": 3, "save_steps": 5,
               "gradient_accumulation_steps": 2}  # fmt: skip
    whole = start([str(table)], options_for({**options, "output_dir": str(tmp_path / "whole")}), 0.0)
    list(whole.events())
    session = start([str(table)], options_for({**options, "output_dir": str(tmp_path / "cut")}), 0.0)
    reasons = []
    while reasons[-1:] != ["done"]:
        session.trainer.stop = True
        reasons.append(list(session.events())[-1].reason)
        session = resume(tmp_path / "cut", {})
    assert reasons == ["interrupted"] * 13 + ["done"]
    for name in ("model.safetensors", "checkpoint-13/model.safetensors", "checkpoint-13/optimizer.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()


def test_a_folder_a_label_trains_what_a_table_does(table, tmp_path):
    rows = sorted(labelled([table]), key=lambda row: (row[1], row[0]))
    root = tmp_path / "sayings"
    for number, (text, label) in enumerate(rows):
        (root / label).mkdir(parents=True, exist_ok=True)
        (root / label / f"{number:04}.txt").write_text(text)
    ordered = csv_of(rows, tmp_path / "ordered.csv")
    folders = [trained(path, tmp_path / f"run{k}", max_steps=5) for k, path in enumerate((root, ordered))]
    assert len({(folder / "model.safetensors").read_bytes() for folder in folders}) == 1


def test_a_model_starts_from_one_that_writes(table, tmp_path):
    language = textgen.train(
        table, text_column="text", tokenizer="word", hidden_size=12, embedding_size=10, max_steps=30, threads=1,
        sample_steps=0, output_dir=str(tmp_path / "language"),
    )  # fmt: skip
    options = {name: value for name, value in TINY.items() if name not in ("hidden_size", "embedding_size")}
    options |= {"init_from": str(language), "output_dir": str(tmp_path / "run")}
    session = start([str(table)], options_for(options), 0.0)
    before = load_file(language / "model.safetensors")
    now = dict(session.trainer.model.named_parameters())
    assert all(torch.equal(now[name], before[name]) for name in before if not name.startswith("readout."))
    assert now["readout.linear.weight"].shape == (2, 12)
    list(session.events())
    assert textgen.load(tmp_path / "run").classify(["fine"])[0].label == "pos"


# --- the command line ---


def run(*arguments, stdin=None):
    return CliRunner().invoke(group, list(map(str, arguments)), input=stdin)


def test_predict_tells_lines_columns_and_files(models, tmp_path):
    (tmp_path / "a.txt").write_text("a fine w1\n\na dull w1\n")
    csv_of([("fine", "neg"), ("dull", "pos")], tmp_path / "b.csv")
    result = run("predict", "-m", models["last"], tmp_path / "a.txt", tmp_path / "b.csv")
    lines = result.stdout.splitlines()
    assert lines[0].split("\t") == ["label", "neg", "pos"] and len(lines) == 6
    assert [line.split("\t")[0] for line in lines[1:]] == ["pos", "", "neg", "pos", "neg"]
    assert "1 text without content got no label" in result.stderr
    objects = run("predict", "-m", models["last"], tmp_path / "b.csv", "--json").stdout.splitlines()
    assert [json.loads(line)["label"] for line in objects] == ["pos", "neg"]
    assert json.loads(objects[0])["text"].startswith("row 1 of ")
    whole = run("predict", "-m", models["last"], tmp_path / "a.txt", "--whole-files").stdout.splitlines()
    assert len(whole) == 2


def test_evaluate_shows_the_confusion(models, table, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "confusion.png"
    result = run("evaluate", "-m", models["last"], table, "--plot", picture)
    assert result.stdout.startswith("accuracy ") and "120 texts" in result.stdout and "calibration" in result.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    found = json.loads(run("evaluate", "-m", models["last"], table, "--json").stdout)
    held = json.loads(run("evaluate", "-m", models["last"], "--json").stdout)
    assert found["texts"] == 120 and held["texts"] == 30
    predictions = textgen.load(models["last"]).classify(text for text, _ in labelled([table]))
    right = np.mean([answer.label == label for answer, (_, label) in zip(predictions, labelled([table]), strict=True)])
    assert found["accuracy"] == pytest.approx(right)


def test_a_label_that_the_model_does_not_know_is_named_with_its_row(models, tmp_path):
    path = csv_of([("fine", "pos"), ("so so", "poss")], tmp_path / "x.csv")
    result = run("evaluate", "-m", models["last"], path)
    said = str(result.exception)
    assert "row 2 of" in said and "has the label 'poss', which the model does not know; it knows 'neg', 'pos'." in said
    assert "Did you mean 'pos'?" in said


@pytest.mark.parametrize(("arguments", "said"), [
    (["predict"], "no text given"),
    (["evaluate", "{x}", "--label-column", "stars"], "has no column 'stars'; its columns are 'text', 'label'"),
    (["sample", "-p", "fine"], "does not write: it is one for --task classify"),
])  # fmt: skip
def test_what_does_not_go_with_labels_is_said(models, tmp_path, arguments, said):
    path = csv_of([("fine", "pos")], tmp_path / "x.csv")
    result = run(arguments[0], "-m", models["last"], *(word.format(x=path) for word in arguments[1:]))
    assert isinstance(result.exception, TextgenError) and said in str(result.exception)


def test_lines_of_a_pipe_are_classified_as_they_arrive(models):
    """A line is answered before the next one is sent."""
    command = [sys.executable, "-m", "textgen", "predict", "-m", str(models["last"]), "-", "--threads", "1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        killer = threading.Timer(120, process.kill)  # instead of waiting for ever for an answer that is held back
        killer.start()
        assert process.stdout.readline().split("\t")[0] == "label"
        for text, label in (("a fine w1", "pos"), ("a dull w1", "neg")):
            process.stdin.write(text + "\n")
            process.stdin.flush()
            assert process.stdout.readline().split("\t")[0] == label
        process.stdin.close()
        assert process.wait(timeout=60) == 0
        killer.cancel()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_pipe_is_read_as_a_file_is(models, tmp_path, encoding):
    texts = tmp_path / "texts.txt"
    texts.write_bytes("a fine w1\n<|end|>\na dull w1\n<|end|>\n".encode(encoding))
    for options in ([], ["--document-separator", "<|end|>"]):
        command = [sys.executable, "-m", "textgen", "predict", "-m", str(models["last"]), "--encoding", encoding]
        command += ["--threads", "1", *options]
        filed, piped = (
            subprocess.run([*command, name], input=texts.read_bytes(), capture_output=True, check=True).stdout
            for name in (str(texts), "-")
        )
        assert filed == piped and len(filed.splitlines()) == (3 if options else 5)


def test_a_damaged_list_of_labels_is_refused(models, tmp_path):
    folder = shutil.copytree(models["last"], tmp_path / "copy")
    path = folder / "labels.json"
    filesystem.replace_in_folder(folder, "labels.json", path.read_bytes().replace(b'"neg"', b'"pos"'))
    with pytest.raises(storage.DamagedError, match="names 1 labels for 2 outputs"):
        textgen.load(folder)
