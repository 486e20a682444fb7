"""Laws of files from strangers: nothing endless is read, nothing odd is shown, and what cannot be is a sentence."""

import json
import os
from functools import cache

import numpy as np
import pytest
from torture import folders, hostile, mutants
from torture.isolation import not_a_sentence

import textgen
from textgen import storage
from textgen.cli import load_plugins, runs
from textgen.data.recipes import TRAIN
from textgen.data.splits import choose_split
from textgen.data.store import open_store, tokenizer_of
from textgen.data.tokenizers import BpeTokenizer, load_tokenizer, train_tokenizer
from textgen.errors import TextgenError, UsageError
from textgen.generation import SampleOptions
from textgen.generation.beam import search
from textgen.generation.sampling import Sampler
from textgen.model import CONFIG, GENERATION, LARGEST_HEADER, STEP, WEIGHTS
from textgen.runtime.graph import StepGraph
from textgen.storage import DamagedError, _damaged_lines
from textgen.training.runs import METRICS, Run


@pytest.fixture(scope="module")
def parents(tmp_path_factory):
    """Good folders: models, then token stores."""
    return folders.make_models(tmp_path_factory.mktemp("models"))


@cache
def _pieces_model():
    return BpeTokenizer.train([[folders.TEXT.encode()]], 300).files()


def written(parents, where, place=0, **changed):
    """A copy of a good folder with other files, every digest right."""
    parent = parents[place]
    renamed = {name.replace("__", "."): content for name, content in changed.items()}
    hostile.Folder({**parent.contents, **renamed}, parent.manifest).write(where)
    return where


def table(parents, name, place=0):
    return json.loads(parents[place].contents[name])


# --- messages ---


@pytest.mark.parametrize("odd", ["\x1b[31mred", "a\nb", "a\rb", "\u202etxt", "\ud800", "\x00", "x" * 10**6])
def test_a_message_is_a_line_that_can_be_shown(odd):
    error = UsageError(f"there is no {odd}.", hint=f"not {odd}.")
    assert not not_a_sentence(str(error)) and not not_a_sentence(error.hint)
    assert str(error).startswith("there is no ") and str(error).encode()


def test_a_message_of_characters_of_the_world_stays_as_it_is():
    for text in ("no 漢字 – é 👩 here.", "no " + "x" * 1000 + "."):
        assert str(TextgenError(text)) == text


def test_what_a_folder_says_of_its_cell_reaches_no_terminal(parents, tmp_path):
    config = {**table(parents, CONFIG), "cell": "evil", "cell_distribution": "\x1b]0;owned\x07"}
    folder = written(parents, tmp_path / "m", config__json=json.dumps(config).encode())
    with pytest.raises(TextgenError, match="which is not installed") as caught:
        textgen.load(folder, "torch")
    assert str(caught.value).isprintable()


# --- code, links, pipes ---


@pytest.fixture
def inside(tmp_path, monkeypatch):
    """A place that modules are found in, with a module that leaves a mark when it is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "evilcell.py").write_text(hostile.CODE)
    yield tmp_path
    monkeypatch.delenv("CANARY", raising=False)


@pytest.mark.parametrize("name", [CONFIG, GENERATION, "tokenizer_config.json", STEP, WEIGHTS])
@pytest.mark.parametrize("backend", folders.BACKENDS)
@pytest.mark.parametrize("protocol", range(3))
def test_no_code_is_run_from_a_pickle(parents, inside, name, backend, protocol):
    folder = written(parents, inside / "m", **{name.replace(".", "__"): mutants.PICKLES[protocol]})
    if (name, backend) == (STEP, "torch"):
        assert textgen.load(folder, backend)
    else:
        with pytest.raises(TextgenError, match=name):
            textgen.load(folder, backend)
    assert not (inside / "canary-was-here").exists()


@pytest.mark.parametrize("cell", ["evilcell", "evilcell.Cell", "evilcell:Cell", "./evilcell", "os.system"])
def test_a_cell_is_not_imported_by_its_name(parents, inside, cell):
    config = {**table(parents, CONFIG), "cell": cell, "auto_map": {"AutoModel": "evilcell.Cell"}}
    folder = written(parents, inside / "m", config__json=json.dumps(config).encode())
    with pytest.raises(TextgenError, match="which is not installed"):
        textgen.load(folder, "torch")
    assert textgen.load(folder, "numpy") and not (inside / "canary-was-here").exists()


@pytest.mark.parametrize("name", [storage.MANIFEST, CONFIG, GENERATION, "tokenizer_config.json", STEP, WEIGHTS])
def test_links_are_not_followed_and_pipes_not_waited_for(parents, tmp_path, name):
    folder = written(parents, tmp_path / "m")
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TextgenError, match=name):
        textgen.load(folder, "numpy")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(DamagedError, match=f"{name} is not a regular file"):
        textgen.load(folder, "numpy")


@pytest.mark.parametrize("made", ["pipe", "link"])
def test_a_log_of_metrics_that_is_no_regular_file_is_not_read(tmp_path, made):
    run = tmp_path / "run"
    run.mkdir()
    log = run / METRICS
    if made == "pipe":
        os.mkfifo(log)
        sentence = f"{log} is not a regular file."
    else:
        (tmp_path / "elsewhere").write_text('{"step": 1}\n')
        log.symlink_to(tmp_path / "elsewhere")
        sentence = f"{log} cannot be read: Too many levels of symbolic links."
    for read in (lambda: Run(run).go_back_to(0), lambda: runs.metrics(run)):
        with pytest.raises(DamagedError) as caught:
            read()
        assert str(caught.value) == sentence
    assert list(_damaged_lines(log)) == [sentence]
    assert log.is_symlink() == (made == "link")


# --- what is endless is not read ---


@pytest.mark.parametrize("name", [CONFIG, GENERATION, "tokenizer_config.json", STEP, WEIGHTS])
@pytest.mark.parametrize("backend", folders.BACKENDS)
def test_a_file_of_gigabytes_is_refused_unread(parents, tmp_path, name, backend, monkeypatch):
    folder = written(parents, tmp_path / "m")
    with (folder / name).open("ab") as file:
        file.truncate(50 << 30)
    manifest = storage.read_manifest(folder)
    manifest["files"][name]["size"] = 50 << 30
    (folder / storage.MANIFEST).write_bytes(storage.seal(manifest))
    if name == STEP and backend == "torch":
        assert textgen.load(folder, backend)
        return
    with pytest.raises(DamagedError, match=rf"{name} is damaged: it has 53,687,\d+,\d+ bytes, more than"):
        textgen.load(folder, backend)


def test_weights_may_have_a_header(parents, tmp_path):
    header, numbers = mutants.tensors_of(parents[0].contents[WEIGHTS])
    header["__metadata__"] = {"note": "x" * (LARGEST_HEADER // 2)}
    folder = written(parents, tmp_path / "m", model__safetensors=mutants.tensors_file(header, numbers))
    assert textgen.load(folder, "numpy") and textgen.load(folder, "torch")


def test_files_that_are_no_part_of_a_tokenizer_are_not_read(parents, tmp_path, monkeypatch):
    folder = written(parents, tmp_path / "m", tokenizer_evil__bin=b"x")
    (folder / "tokenizer_evil.bin").unlink()
    assert tokenizer_of(folder).kind == "char"


def test_json_of_very_many_tables_is_refused():
    for part in (b"[]", b"{}"):
        content = b'{"x": [' + b",".join([part] * (storage.MOST_TABLES + 1)) + b"]}"
        with pytest.raises(DamagedError, match="more than 2,097,152 lists and objects"):
            storage.parse_json(content, "config.json")


def test_a_text_begins_with_few_symbols(parents, tmp_path):
    habits = {**table(parents, GENERATION), "begin": [0] * 2000}
    folder = written(parents, tmp_path / "m", generation_config__json=json.dumps(habits).encode())
    with pytest.raises(DamagedError, match="begins with 2,000 tokens"):
        textgen.load(folder)


# --- a step that would take for ever ---


def repeated(op, inputs, shape, options, times):
    """Nodes that do one thing so often."""
    extra = {"options": options} if options else {}
    full = {"op": "full", "inputs": [], "is": ["float32", [512, 512]], "options": {"value": 0.5}}
    return [full, *[{"op": op, "inputs": inputs, "is": ["float32", shape], **extra}] * times]


@pytest.mark.parametrize(
    ("op", "inputs", "shape", "options", "times"),
    [
        ("sum", ["{0}"], [1, 1], {"axes": [0, 1], "keep": True}, 200),
        ("amax", ["{0}"], [1, 1], {"axes": [0, 1], "keep": True}, 200),
        ("matmul", ["{0}", "{0}"], [512, 512], None, 2),
        ("linear", ["{0}", "{0}"], [512, 512], None, 2),
        ("tanh", ["{0}"], [512, 512], None, 200),
    ],
)
@pytest.mark.parametrize("program", ["step", "initial"])
def test_a_step_works_no_more_than_its_weights_ask_for(parents, program, op, inputs, shape, options, times):
    content = table(parents, STEP)
    nodes = content[program]["nodes"]
    inputs = [each.format(f"node.{len(nodes)}") for each in inputs]
    nodes += repeated(op, inputs, shape, options, times)
    with pytest.raises(DamagedError, match=f"its {program} program does more work than a model of"):
        StepGraph.from_json(content)


def test_slices_of_weights_are_no_work(parents):
    content = table(parents, STEP)
    name, (_, shape) = next((n, k) for n, k in content["weights"].items() if len(k[1]) == 2)
    cut = {"op": "slice", "inputs": [f"weight.{name}"], "is": ["float32", [1, shape[1]]],
           "options": {"axis": 0, "start": 0, "stop": 1, "step": 1}}  # fmt: skip
    content["step"]["nodes"] += [cut] * 10_000
    assert StepGraph.from_json(content)


# --- numbers that are none ---


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("size", [7, 2000])
@pytest.mark.parametrize("options", [{}, {"temperature": 0}, {"top_p": 0.5}, {"top_k": 3, "min_p": 0.1}], ids=str)
def test_nothing_is_drawn_from_numbers_that_are_none(value, size, options):
    logits = np.full(size, value, dtype=np.float32)
    with pytest.raises(TextgenError, match="computes no probabilities"):
        Sampler(SampleOptions(**options), 1).choose(logits)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_no_beam_goes_on_from_numbers_that_are_none(value):
    class Broken:
        def initial_state(self, batch_size):
            return ()

        def step(self, ids, state):
            return np.full((len(ids), 9), value, dtype=np.float32), ()

    with pytest.raises(TextgenError, match="computes no probabilities"):
        search(Broken(), np.array([1]), SampleOptions(num_beams=2, max_new_tokens=3), boundary=0)


# --- tokenizers and stores ---


def test_a_key_that_stands_twice_in_a_tokenizer_is_refused():
    content = b'{"vocab_size": 1, ' + train_tokenizer("byte", [[b"a"]]).files()["tokenizer_config.json"].lstrip(b"{\n")
    with pytest.raises(TextgenError, match="duplicate key"):
        load_tokenizer({"tokenizer_config.json": content})


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_a_tokenizer_is_written_in_utf_8(encoding):
    content = train_tokenizer("byte", [[b"a"]]).files()["tokenizer_config.json"].decode()
    with pytest.raises(TextgenError, match="is damaged: 'utf-8' codec"):
        load_tokenizer({"tokenizer_config.json": content.encode(encoding)})


def test_characters_are_stored_as_they_are():
    characters = "".join(map(chr, range(0x4E00, 0x5E00)))
    stored = train_tokenizer("char", [[characters.encode()]]).files()["tokenizer_config.json"]
    assert len(stored) < 4 * len(characters) and characters.encode() in stored


@pytest.mark.parametrize(("which", "said"), [(-1, "has a piece that is not text"), (30, "is not a model")])
def test_a_piece_that_is_no_text_is_refused(which, said):
    with pytest.raises(TextgenError, match=said):
        BpeTokenizer(_with_piece(b"\xff\xfe", which))


def _with_piece(content, which=-1):
    fields = mutants.fields_of(_pieces_model()["tokenizer.model"])
    place = [k for k, field in enumerate(fields) if field[0] == mutants.PIECES][which]
    piece = mutants.fields_of(fields[place][2])
    fields[place] = (mutants.PIECES, 2, mutants.message_of([(1, 2, content), *piece[1:]]))
    return mutants.message_of(fields)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("text", ["\n", "\u2581\u2585"])
def test_a_text_that_is_too_little_comes_with_a_remedy(kind, text):
    with pytest.raises(TextgenError) as caught:
        train_tokenizer(kind, [[text.encode()]])
    assert "tokenizer=byte" in caught.value.hint


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dtype": "O"}, "its dtype or its counts"),
        ({"dtype": "<i8"}, "its dtype or its counts"),
        ({"tokens": {"train": 10}}, "its dtype or its counts"),
        ({"tokens": {"train": 10, "validation": -1}}, "its dtype or its counts"),
        ({"raw": {}}, "its dtype or its counts"),
        ({"tokens": {"train": 3, "validation": 0}}, "does not hold 3 tokens"),
        ({"vocab_size": 3}, "another tokenizer"),
        ({"tokenizer": "word"}, "another tokenizer"),
    ],
)
def test_a_store_that_lies_about_its_tokens_is_refused(parents, tmp_path, changed, message):
    parent = parents[-1]
    hostile.Folder(dict(parent.contents), {**parent.manifest, **changed}).write(tmp_path / "s")
    with pytest.raises(DamagedError, match=message):
        open_store(tmp_path / "s")


def test_a_store_of_ids_that_do_not_exist_is_refused(parents, tmp_path):
    parent = parents[-1]
    contents = {**parent.contents, "train.bin": b"\xff" * len(parent.contents["train.bin"])}
    hostile.Folder(contents, parent.manifest).write(tmp_path / "s")
    with pytest.raises(DamagedError, match=r"train.bin is damaged: it holds an id above"):
        open_store(tmp_path / "s")


# --- plugins ---


def test_what_an_import_changes_is_named(monkeypatch):
    seen = [{"the default dtype": 1, "the grad mode": True}, {"the default dtype": 2, "the grad mode": True}]
    monkeypatch.setattr(load_plugins, "surroundings", lambda: seen.pop(0))
    monkeypatch.setattr(load_plugins.plugins, "load_module", lambda *given: {"x": object})
    entry = load_plugins.Entry("x", "m", "textgen-x", "1.0")
    assert load_plugins.problem_with(entry) == "importing it changes the default dtype"


def test_a_slow_import_is_named(monkeypatch):
    monkeypatch.setattr(load_plugins, "LONGEST_IMPORT", -1.0)
    monkeypatch.setattr(load_plugins.plugins, "load_module", lambda *given: {"x": object})
    entry = load_plugins.Entry("x", "m", "textgen-x", "1.0")
    assert "s to import" in load_plugins.problem_with(entry)


# --- texts ---


@pytest.mark.parametrize("sizes", [[1], [2], [1, 1], [3], [1, 1, 1]], ids=str)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_of_the_smallest_text_something_is_left_to_train_on(sizes, share):
    pieces = [(number, b"a" * size) for number, size in enumerate(sizes)]
    parts = [part for part, _, _ in choose_split(sizes, share, 1).divide(pieces)]
    assert TRAIN in parts
