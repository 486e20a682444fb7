"""Laws of the public Python functions: a wrong argument is answered with a TextgenError that names the parameter, and
what means the same as a right one is taken for it."""

import datetime
import math
import types
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
from faults import Quick
from test_series import SIZES, hours, months, wave, write

import textgen
from textgen.compare.comparison import compare
from textgen.data.tokenizers import train_tokenizer
from textgen.evaluation import token_scores
from textgen.evaluation.compression import compress, decompress
from textgen.generation.session import Session
from textgen.generation.streams import Streams
from textgen.storage import filesystem

TEXT = "the quick brown fox jumps over the lazy dog. " * 40


class Name(str, Enum):  # noqa: UP042 - what older programs have
    """Text in another class."""

    GRU = "gru"
    ONCE = "the"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model of each task, in their folders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filesystem, "system", Quick())
        place = tmp_path_factory.mktemp("models")
        (place / "a.txt").write_text(TEXT)
        labelled = [f"{TEXT[k : k + 20]},{'ab'[k % 2]}" for k in range(60)]
        (place / "labelled.csv").write_text("\n".join(["text,label", *labelled]) + "\n")
        table = write(place / "series.csv", time=hours(200), load=wave(200, 24))
        sizes = {**SIZES, "max_steps": 2}
        folders = {
            "writer": textgen.train(place / "a.txt", output_dir=place / "writer", tokenizer="char", **sizes),
            "classifier": textgen.train(place / "labelled.csv", task="classify", output_dir=place / "labels", **sizes),
            "forecaster": textgen.train(table, task="forecast", horizon=3, output_dir=place / "series", **sizes),
        }
    return types.SimpleNamespace(
        place=place, table=table, folders=folders, **{name: textgen.load(folder) for name, folder in folders.items()}
    )


NUMBERS = [None, "3", b"3", [3], 2.5, math.nan, True, -5, 10**400, object()]
TEXTS = [None, 123, b"x", ["x"], 2.5, True, object(), Path("x")]
PATHS = [None, 123, b"x", 2.5, True, object(), "", "a\0b"]
MODELS = [None, 123, "writer", b"", object(), Path("writer"), "classifier", "forecaster"]
CORPORA = [None, 123, 2.5, b"x", True, object(), [], [None], [123], {"a": 1}, "", "a\0b", "no/such/file"]


def wrong_numbers(call, name, *, zero=True, **others):
    return [(call, name, value, others) for value in [*NUMBERS, *([0] if zero else [])]]


def cases():
    """(function of the models and keyword arguments, parameter, wrong value, other arguments)."""
    found = []

    def add(call, name, values, **others):
        found.extend((call, name, value, others) for value in values)

    writes = {
        "generate": lambda m, model=None, prompt="the", **o: textgen.generate(
            m.writer if model is None else model, prompt, **o
        ),
        "stream": lambda m, model=None, prompt="the", **o: list(
            textgen.stream(m.writer if model is None else model, prompt, **o)
        ),
        "add": lambda m, model=None, prompt="the", **o: Streams(m.writer if model is None else model).add(prompt, **o),
        "write": lambda m, model=None, prompt="the", **o: Session.begin(
            m.writer if model is None else model, prompt
        ).write(**o),
    }
    for call in writes.values():
        add(call, "model", [value for value in MODELS if value is not None])
        add(call, "prompt", TEXTS)
        add(call, "max_new_tokens", [*(value for value in NUMBERS), -2])
        add(call, "temperature", [None, "hot", b"", math.nan, True, -1, 10**400, [1.0], [0.5, "x"], object()])
        add(call, "stop", [None, 3, b"x", [3], [""], [None], object()])
        add(call, "logit_bias", [None, 3, [], {"e": "x"}, {None: 1.0}, {"e": math.nan}, {1.5: 1.0}, {10**6: 1.0}])
        add(call, "seed", [value for value in NUMBERS if value is not None])
        add(call, "greedy", [None, 1, "yes", np.array([True, False])])
    add(lambda m, **o: textgen.generate(m.writer, **o), "num_beams", [0, "3", True, -1])
    add(lambda m, model: textgen.generate(model), "model", [None])
    add(lambda m, model: textgen.evaluate(model, "x"), "model", MODELS)
    add(lambda m, model: token_scores(model, "x"), "model", MODELS)
    add(lambda m, model: compress(model, b"x"), "model", MODELS)
    add(lambda m, model: decompress(model, b"x"), "model", MODELS)
    add(lambda m, text: textgen.evaluate(m.writer, text), "text", [None, 123, 2.5, True, ["x"], object()])
    add(lambda m, lanes: textgen.evaluate(m.writer, "x", lanes=lanes), "lanes", [*NUMBERS, 0])
    add(lambda m, text: token_scores(m.writer, text), "text", TEXTS)
    add(lambda m, data: compress(m.writer, data), "data", [None, 123, "x", 2.5, ["x"], object()])
    add(lambda m, archive: decompress(m.writer, archive), "archive", [None, 123, "x", 2.5, ["x"], object()])
    add(lambda m, exact: Streams(m.writer, exact=exact), "exact", [None, 1, "yes", object()])
    add(lambda m, seed: Session.begin(m.writer, seed=seed), "seed", [value for value in NUMBERS if value is not None])
    add(lambda m, remember: Session.begin(m.writer, remember=remember), "remember", [*NUMBERS, 0])
    add(lambda m, text: Session.begin(m.writer).read(text), "text", TEXTS)
    add(lambda m, prompt: Session.begin(m.writer).ask(prompt), "prompt", TEXTS)
    add(lambda m, seed: Session.begin(m.writer).fork(seed), "seed", [value for value in NUMBERS if value is not None])
    add(lambda m, path: Session.begin(m.writer).save(path), "path", PATHS)
    add(lambda m, path: Session.load(m.writer, path), "path", PATHS)
    add(lambda m, folder: textgen.load(folder), "folder", PATHS)
    add(lambda m, backend: textgen.load(m.folders["writer"], backend), "backend", [None, 1, "cuda", b"torch", object()])
    add(lambda m, backend: textgen.load(m.folders["forecaster"], backend), "backend", [1, "x"])
    for train in (textgen.train, compare):
        add(lambda m, corpus, train=train: train(corpus), "corpus", CORPORA)
        call = lambda m, train=train, **o: train(m.place / "a.txt", **o)  # noqa: E731
        add(call, "dropout", [value for value in NUMBERS if value is not None])
        add(call, "optimizer", [None, 1, "sdg", b"sgd"])
        add(call, "output_dir", [1, b"x", True, 2.5, ["x"]])
    add(lambda m, **o: textgen.train(m.place / "a.txt", **o), "cell", [None, 1, b"gru", "", ["gru"]])
    add(
        lambda m, **o: textgen.train(m.place / "a.txt", **o),
        "max_steps",
        [value for value in NUMBERS if value is not None],
    )
    add(lambda m, **o: textgen.train(m.place / "a.txt", **o), "cell_options", [None, 1, "x", [1]])
    add(lambda m, **o: textgen.train(m.place / "a.txt", **o), "device", [None, 1, "tpu", b"cpu"])
    add(lambda m, **o: textgen.train(m.place / "a.txt", **o), "tokenizer", [1, b"char", "chars", ""])
    add(lambda m, **o: compare(m.place / "a.txt", **o), "cells", [None, 3, [3], [], [""]])
    add(lambda m, **o: compare(m.place / "a.txt", **o), "budget", [None, 3, [3], ["x"], ["minutes=nan"], ["params=0"]])
    add(lambda m, **o: compare(m.place / "a.txt", **o), "learning_rates", [None, 3, [0], ["x"], [math.nan], [None]])
    add(lambda m, **o: compare(m.place / "a.txt", **o), "seeds", [*NUMBERS, 0])
    add(lambda m, **o: textgen.train(m.table, task="forecast", **o), "time_column", [None, "time", 3, [3], [None]])
    add(lambda m, **o: textgen.train(m.table, task="forecast", **o), "horizon", [*NUMBERS, 0])
    add(
        lambda m, texts: m.classifier.classify(texts),
        "texts",
        [None, "x", b"x", 3, [3], [None], [b"x"], {"a": "b"}, ["\ud800"]],
    )
    add(lambda m, corpus: m.classifier.evaluate(corpus), "corpus", CORPORA)
    add(lambda m, **o: m.classifier.evaluate(m.place / "labelled.csv", **o), "label_column", [3, b"x", ["x"]])
    for method in ("predict", "evaluate"):
        call = lambda m, method=method, **o: getattr(m.forecaster, method)(m.table, **o)  # noqa: E731
        add(lambda m, corpus, method=method: getattr(m.forecaster, method)(corpus), "corpus", CORPORA)
        add(call, "horizon", [*(value for value in NUMBERS if value is not None), 0, 10**9])
        add(call, "number", [*(value for value in NUMBERS)])
        add(call, "level", [None, "90", math.nan, math.inf, True, 0, -1, 150, 100, 10**400])
        add(call, "seed", [*NUMBERS, 2**63])
        add(call, "encoding", [3, b"x", ["x"]])
    add(lambda m, stride: m.forecaster.evaluate(m.table, stride=stride), "stride", [*NUMBERS, 0])
    add(lambda m, kind: train_tokenizer(kind, [[b"ab"]]), "kind", [None, 1, "chars", b"char", ["char"]])
    add(lambda m, vocab_size: train_tokenizer("bpe", [[b"ab"]], vocab_size), "vocab_size", [*NUMBERS, 0])
    documents = [None, 3, "ab", b"ab", ["ab"], [b"ab"], [["ab"]], [[None]], [None], {"a": [b"x"]}]
    for kind in ("char", "bpe", "word"):
        add(lambda m, documents, kind=kind: train_tokenizer(kind, documents), "documents", documents)
    add(lambda m, text: m.writer.tokenizer.encode(text), "text", TEXTS)
    add(lambda m, ids: m.writer.tokenizer.decode(ids), "ids", [None, 3, "x", [1.5], [None], ["1"], np.array([0.5])])
    return found


CASES = [
    pytest.param(call, name, value, others, id=f"{number}-{name}-{type(value).__name__}")
    for number, (call, name, value, others) in enumerate(cases())
]


@pytest.mark.parametrize(("call", "name", "value", "others"), CASES)
def test_a_wrong_argument_is_named(models, tmp_path, monkeypatch, call, name, value, others):
    monkeypatch.chdir(tmp_path)
    if name == "model" and value in ("classifier", "forecaster"):
        value = getattr(models, value)
    with pytest.raises(textgen.TextgenError) as caught:
        call(models, **{name: value}, **others)
    assert name in str(caught.value) and "--" not in f"{caught.value} {caught.value.hint}"
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["horizon", "temperature", "nosuch"])
@pytest.mark.parametrize("call", [textgen.train, compare, textgen.generate])
def test_an_option_that_does_not_exist_is_named(models, call, name):
    given = models.writer if call is textgen.generate else models.place / "a.txt"
    with pytest.raises(textgen.TextgenError, match=f"'{name}x'"):
        call(given, **{name + "x": 3})


def test_a_model_of_another_task_is_answered_with_what_it_is_for(models):
    with pytest.raises(textgen.TextgenError, match="must be a model that writes text, not a Classifier") as caught:
        textgen.generate(models.classifier, "Once")
    assert "classify" in caught.value.hint
    with pytest.raises(textgen.TextgenError, match="not a ForecastModel"):
        textgen.evaluate(models.forecaster, "x")


def test_every_error_is_a_textgen_error():
    assert textgen.TextgenError is __import__("textgen.errors", fromlist=["x"]).TextgenError
    assert "TextgenError" in textgen.__all__


# What means the same


def test_numbers_and_texts_of_other_types_mean_the_same(models):
    wanted = textgen.generate(models.writer, "the", max_new_tokens=9, temperature=0.5, seed=3, top_k=4, stop=["zz"])
    found = textgen.generate(
        models.writer, Name.ONCE, max_new_tokens=np.int64(9), temperature=np.float64(0.5), seed=np.uint8(3),
        top_k=np.array(4), stop=("zz",), logit_bias={np.int64(1): np.float32(0)}, greedy=np.bool_(False),
    )  # fmt: skip
    assert found == wanted
    assert list(textgen.stream(models.writer, np.str_("the"), max_new_tokens=np.int16(9), seed=3)) != []
    assert textgen.evaluate(models.writer, bytearray(b"the"), lanes=np.int32(1)) == textgen.evaluate(
        models.writer, "the"
    )
    assert decompress(models.writer, memoryview(compress(models.writer, bytearray(b"the fox")))) == b"the fox"
    assert Session.begin(models.writer, "the", seed=np.int64(1)).fork(np.int32(2)).seed == 2


def test_options_of_a_training_in_other_types(models, tmp_path):
    options = {**SIZES, "max_steps": np.int64(1), "dropout": np.float32(0.5), "cell": Name.GRU, "seed": np.uint64(2)}
    folder = textgen.train((models.place / "a.txt",), output_dir=tmp_path / "run", tokenizer="char", **options)
    assert folder == tmp_path / "run" and textgen.load(folder).config.cell == "gru"


def test_paths_and_numbers_of_a_forecaster(models, tmp_path):
    one = models.forecaster.predict(str(models.table), horizon=2, level=80, number=20, seed=1)[0]
    other = models.forecaster.predict(
        [models.table], horizon=np.int64(2), level=np.float32(80), number=np.int8(20), seed=np.uint64(1)
    )[0]
    assert one.to_json() == other.to_json()
    longer = write(tmp_path / "longer.csv", time=hours(260), load=wave(260, 24))
    assert models.forecaster.evaluate(longer, stride=np.int64(20), number=np.int8(0)).windows == 3


def test_a_path_is_scored_as_its_text(models):
    assert textgen.evaluate(models.writer, models.place / "a.txt") == textgen.evaluate(models.writer, TEXT)


# Tables in memory


def frame(models, kind):
    """The series of the table in memory."""
    pandas = pytest.importorskip("pandas")
    read = pandas.read_csv(models.table, parse_dates=["time"])
    if kind == "index":
        return read.set_index("time")
    if kind == "unnamed index":
        return read.set_index("time").rename_axis(None)
    if kind == "periods":
        return read.set_index("time").to_period("h")
    if kind == "series":
        return read.set_index("time")["load"]
    if kind in ("arrow", "batches"):
        import pyarrow

        table = pyarrow.Table.from_pandas(read)
        return table if kind == "arrow" else table.to_reader(17)
    if kind == "datasets":
        import datasets

        return datasets.Dataset.from_pandas(read).select(range(len(read)))
    return read


KINDS = ["frame", "index", "unnamed index", "periods", "series", "arrow", "batches", "datasets"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_in_memory_is_forecast_like_a_file(models, kind):
    wanted = models.forecaster.predict(models.table, horizon=2, number=20, seed=1)[0]
    found = models.forecaster.predict(frame(models, kind), horizon=2, number=20, seed=1)[0]
    assert found.columns() == wanted.columns() and found.history.start == wanted.history.start
    assert [np.datetime64(time) for time in found.times] == [np.datetime64(time) for time in wanted.times]


def test_training_is_logged_and_prints_nothing(tmp_path, caplog, capfd):
    (tmp_path / "notes.txt").write_text("the fox ran to the den\n" * 60)
    with caplog.at_level("INFO", logger="textgen"):
        folder = textgen.train(
            tmp_path / "notes.txt", output_dir=str(tmp_path / "run"), max_steps=4, hidden_size=8, threads=1,
            tokenizer="char", init_from="none",
        )  # fmt: skip
    said = [record.getMessage() for record in caplog.records if record.name == "textgen"]
    assert str(folder) in said[0] and any(line.startswith("step 4 of 4: held-out loss") for line in said)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["frame", "datasets"])
def test_a_run_on_a_table_in_memory_is_resumed(models, tmp_path, kind):
    from textgen.training.start import resume

    table = frame(models, kind)
    options = {**SIZES, "task": "forecast", "output_dir": tmp_path / "runs" / "one"}
    folder = textgen.train(table, **options)
    session = resume(folder, {})
    list(session.events())
    for kept in (tmp_path / "runs" / ".tokens").iterdir():
        filesystem.remove_folder(kept)
    with pytest.raises(textgen.TextgenError, match="its corpus came from memory"):
        resume(folder, {})


def test_texts_and_labels_come_from_memory(models, tmp_path):
    pandas = pytest.importorskip("pandas")
    labelled = pandas.read_csv(models.place / "labelled.csv")
    wanted = models.classifier.evaluate(models.place / "labelled.csv").to_json()
    assert models.classifier.evaluate(labelled).to_json() == wanted
    options = {**SIZES, "max_steps": 1, "tokenizer": "char"}
    folder = textgen.train(labelled, output_dir=tmp_path / "run", text_column="text", **options)
    model = textgen.load(folder)
    assert textgen.evaluate(model, labelled[["text"]]).characters == int(labelled.text.str.len().sum())
    columns = {"prompt_column": "label", "completion_column": "text"}
    pairs = textgen.train(labelled, task="complete", output_dir=tmp_path / "pairs", **columns, **options)
    assert textgen.load(pairs).config.task == "complete"


def test_a_part_held_out_may_be_in_memory(models, tmp_path):
    table = frame(models, "frame")
    folder = textgen.train(
        table[:150], validation_file=table[150:], task="forecast", output_dir=tmp_path / "run", **SIZES
    )
    (scale,) = textgen.load(folder).design.scales.values()
    assert scale.mean == pytest.approx(table["load"][:150].mean())


def test_what_is_wrong_in_a_table_in_memory_names_it(models):
    pandas = pytest.importorskip("pandas")
    broken = pandas.DataFrame({"time": months(30), "load": [*range(29), "closed"]}, dtype=object)
    with pytest.raises(textgen.TextgenError, match="the DataFrame"):
        models.forecaster.predict(broken)
    with pytest.raises(textgen.TextgenError, match=r"'the DataFrame' has no column 'load'"):
        models.forecaster.predict(pandas.DataFrame({"time": months(30), "other": range(30)}))
    with pytest.raises(textgen.TextgenError, match="no rows"):
        models.forecaster.predict(pandas.DataFrame({"time": [], "load": []}))


def test_the_file_of_a_table_goes_with_its_name():
    pandas = pytest.importorskip("pandas")
    from textgen.data.parquet_table import spool

    name = spool(pandas.DataFrame({"time": [datetime.datetime(2024, 1, 1)], "load": [1.0]}))
    file = name.file
    assert file.exists()
    del name
    assert not file.exists()


def test_a_comparison_reads_a_table_in_memory(tmp_path, monkeypatch):
    pandas = pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    table = pandas.DataFrame({"text": [TEXT] * 3})
    options = {"batch_size": 2, "seq_length": 8, "threads": 1, "device": "cpu", "tokenizer": "char"}
    own = {
        "cells": ("gru", "rnn"),
        "budget": ["params=1500", "tokens=200"],
        "seeds": np.int64(1),
        "learning_rates": [0.01],
    }
    results = compare(table, output_dir=tmp_path / "out", **own, **options)
    assert {result.name for result in results} == {"gru", "rnn"} and (tmp_path / "out").is_dir()
