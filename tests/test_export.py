"""Laws of exports: the same text everywhere, for every cell and tokenizer, and nothing from a model is ever code."""

import base64
import gzip
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from node import in_node, needs_node
from served import FILES
from test_runtime import SIZES, made, saved
from zoo import CELLS

import textgen
from textgen.cli import main
from textgen.errors import TextgenError, UsageError
from textgen.export import export
from textgen.export.html import code
from textgen.generation import SampleOptions
from textgen.generation.generate import rollout
from textgen.generation.language_model import load
from textgen.generation.sampling import Sampler
from textgen.runtime import quantize
from textgen.tasks.forecasting import combining
from textgen.tasks.forecasting.design import prepare_series
from textgen.tasks.forecasting.smoothing import Histories, Search
from textgen.tasks.forecasting.smoothing import run as smoothed_by

TIE = 1e-4
"""Logits that are closer than this may be ordered by rounding."""
STORY = "Mina saw the fox. “Où est-il?” said the naïve café owner; 雨が降る 🦊.\r\n\tTwo  spaces, and a kitchen!\n"
SMALL = {"hidden_size": 16, "max_steps": 10, "threads": 1, "sample_steps": 0, "seed": 1, "init_from": "none"}
KINDS = {
    "char": {},
    "byte": {},
    "bpe": {"vocab_size": 330},
    "unigram": {"vocab_size": 330},
    "word": {"vocab_size": 260},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def folders(place):
    """A trained model of each tokenizer kind, and two classifiers, one of them with a linear model of words."""
    (place / "story.txt").write_text(STORY * 60 + FILES["notes.txt"], encoding="utf-8", newline="")
    (place / "labels.csv").write_text(FILES["labels.csv"])
    made = {
        kind: textgen.train(place / "story.txt", tokenizer=kind, output_dir=str(place / kind), **SMALL, **more)
        for kind, more in KINDS.items()
    }
    for name, more in (("labels", {"ngrams": False}), ("words", {"ensemble": 2})):
        options = {"label_column": "label", "tokenizer": "char", "output_dir": str(place / name), **SMALL, **more}
        made[name] = textgen.train(place / "labels.csv", **options)
    return made


def module(folder, scratch, **options):
    """The folder of a model's JavaScript module."""
    target = scratch / "module"
    target.mkdir()
    for name, content in export(folder, target, "js", **options).items():
        (target / name).write_bytes(content)
    return target


def same_but_for_ties(model, prompt, number, found):
    """Whether a greedy text is the model's own, up to the first token that rounding decides."""
    options = SampleOptions(greedy=True)
    sampler = Sampler(options, 0, (*model.unsampled, model.tokenizer.boundary))
    text, written = "", rollout(model.stepper, [model.encode_prompt(prompt)], [_Watched(sampler)])
    for at, ((choice,), _) in enumerate(written, 1):
        text += model.tokenizer.decode([choice.id])
        if not found.startswith(text):
            return choice.gap < TIE
        if at == number:
            return text == found
    return False


class _Watched:
    """A sampler whose choices say how far ahead they were."""

    def __init__(self, sampler):
        self._sampler = sampler

    def choose(self, logits):
        choice = self._sampler.choose(logits)
        first, second = np.sort(self._sampler.filtered(logits))[:-3:-1]
        object.__setattr__(choice, "gap", float(first - second))
        return choice


# --- JavaScript ---


@needs_node
@pytest.mark.parametrize("cell", CELLS)
def test_greedy_text_is_numpys_in_node(cell, tmp_path):
    folder = saved(tmp_path / "model", *made(cell))
    options = {"temperature": 0, "max_new_tokens": 2000, "ignore_eos": True}
    (found,) = in_node(tmp_path, module(folder, tmp_path), ["generate", "abc", options])
    assert same_but_for_ties(load(folder), "abc", 2000, found)


@needs_node
@pytest.mark.parametrize(
    "more", [{"num_layers": 3, "residual": True, "layer_norm": True}, {"tie_word_embeddings": True}]
)
def test_stacks_of_every_form_run_in_node(more, tmp_path):
    sizes = {**SIZES, **({"embedding_size": 16} if "residual" in more else {}), **more}
    folder = saved(tmp_path / "model", *made("gru", **sizes))
    options = {"temperature": 0, "max_new_tokens": 500, "ignore_eos": True}
    (found,) = in_node(tmp_path, module(folder, tmp_path), ["generate", "abc", options])
    assert same_but_for_ties(load(folder), "abc", 500, found)


@needs_node
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_rounded_weights_give_numpys_text_on_the_same_weights(cell, dtype, tmp_path):
    config, model = made(cell, hidden_size=80, embedding_size=64)
    folder = saved(tmp_path / "model", config, model)
    rounded = folder
    if dtype != "float32":
        quantize(folder, rounded := tmp_path / "rounded", dtype=dtype)
    options = {"temperature": 0, "max_new_tokens": 500, "ignore_eos": True}
    (found,) = in_node(tmp_path, module(folder, tmp_path, dtype=dtype), ["generate", "abc", options])
    assert same_but_for_ties(load(rounded, "numpy"), "abc", 500, found)


@needs_node
def test_the_noise_is_numpys(tmp_path):
    seeds = [0, 1, 7, 2**31, 2**40 + 5, 2**63 - 1]
    found = in_node(tmp_path, None, *(["noise", str(seed), 50] for seed in seeds))
    for seed, uniforms in zip(seeds, found, strict=True):
        wanted = np.random.Generator(np.random.Philox(seed)).random(50, dtype=np.float32)
        assert uniforms == wanted.tolist(), seed


@needs_node
@pytest.mark.parametrize("kind", KINDS)
def test_text_is_encoded_as_in_python(kind, folders, tmp_path):
    tokenizer = load(folders[kind]).tokenizer
    texts = [STORY, "the fox", "  the   fox \n\n", "", " ", "\n", "unseen: żółć, ▁▂▅, \u00a0", "a" * 5000, "x " * 50]
    texts += [STORY[start : start + 9] for start in range(0, len(STORY), 3)] + ["<unk> of", "\r", "\ufeffbom", "🦊🦊"]
    found = in_node(tmp_path, module(folders[kind], tmp_path), *(["encode", text] for text in texts))
    for text, ids in zip(texts, found, strict=True):
        assert ids == tokenizer.model_ids(tokenizer.encode(text)).tolist(), text


@needs_node
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 1.3, "top_p": 0.9, "top_k": 20},
        {"min_p": 0.05, "repetition_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": 0.3},
        {"temperature": 0.5, "stop": ["ox", "."]},
        {"lines": True},
        {"temperature": 0},
    ],
    ids=lambda options: "-".join(options) or "defaults",
)
def test_the_same_seed_gives_the_same_text(kind, options, folders, tmp_path):
    model, given = load(folders[kind]), {**options, "max_new_tokens": 200, "seed": 11}
    prompts = ["the fo", "", "Mina saw ", "naï"]
    found = in_node(tmp_path, module(folders[kind], tmp_path), *(["generate", prompt, given] for prompt in prompts))
    for prompt, text in zip(prompts, found, strict=True):
        assert text == textgen.generate(model, prompt, **given), prompt


@needs_node
def test_pieces_are_whole_characters_and_the_text(folders, tmp_path):
    options = {"temperature": 3, "max_new_tokens": 200, "seed": 2}
    whole, pieces = in_node(
        tmp_path, module(folders["byte"], tmp_path), ["generate", "the", options], ["pieces", "the", options]
    )
    assert "".join(pieces) == whole and not any("\ufffd" in piece for piece in pieces)


@needs_node
@pytest.mark.parametrize("name", ["labels", "words"])
def test_a_classifier_gives_the_same_probabilities(folders, tmp_path, name):
    texts = ["a fine day", "a dull day", "fine fine dull"]
    found = in_node(tmp_path, module(folders[name], tmp_path), *(["classify", text] for text in texts))
    for wanted, probabilities in zip(textgen.load(folders[name]).classify(texts), found, strict=True):
        assert probabilities == pytest.approx(wanted.probabilities, abs=1e-6)


@needs_node
def test_words_are_those_of_python(tmp_path):
    """In every script: a text whose words are read differently has other probabilities."""
    texts = [
        "Die Straße, GROẞE Straße",
        "ΟΔΥΣΣΕΥΣ και Ὀδυσσεύς",
        "İstanbul'da ılık",
        "ﬁne ﬂat oﬃce",
        "don't_stop 42½ ⅷ",
        "ฉันรักเธอ",
        "我愛你。",
        "ひらがな カタカナ",
        "नमस्ते दुनिया",
        "e\u0301te\u0301",
        "a\x1cb\x85c\u00a0d\ufeffe",
        "disappointing" * 5,
        "🦊🦊 𝒳𝒴 𐐀𐐨",
        "--- ?! ---",
    ]
    rows = [{"text": text, "label": "odd" if k % 2 else "even"} for k, text in enumerate(texts) for _ in range(3)]
    (tmp_path / "scripts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = textgen.train(
        tmp_path / "scripts.jsonl", task="classify", tokenizer="byte", output_dir=str(tmp_path / "run"), **SMALL
    )
    model = textgen.load(run)
    found = in_node(tmp_path, module(run, tmp_path), *(["classify", text] for text in texts))
    for text, wanted, probabilities in zip(texts, model.classify(texts), found, strict=True):
        assert probabilities == pytest.approx(wanted.probabilities, abs=1e-6), text
        features = model.blend.ngrams.reading()
        assert list(features.through([text.encode()])) and len(features.keys()) > 2, text
    assert model.blend.weights[1] > 0


def with_kept_settings(model, later):
    """The forecast after later values, smoothed with the settings found before those."""
    (name, series), design = next(iter(model.history.items())), model.design
    values = np.concatenate([series.values, later])
    gaps = np.concatenate([series.missing, np.zeros(len(later), dtype=bool)])
    extras = np.concatenate([series.extras, np.repeat(series.extras[-1:], len(later), axis=0)])
    rows = prepare_series(replace(series, values=values, missing=gaps, extras=extras), design, design.horizon)
    loop, (after,) = combining.CombinedLoop.over(model.stepper, [rows], design, [len(rows)], model.combination)
    before = prepare_series(series, design, design.horizon)
    search = Search(Histories.of([before.scaled], [before.series.missing]), design.periods, design.horizon)
    settings, weights = search.best()
    for step, states, _ in smoothed_by(Histories.of([rows.scaled], [gaps]), settings, design.periods):
        if step == len(rows):
            ahead = (states.ahead(settings, step, design.horizon) * weights[0]).sum(axis=1)
    (origins,) = loop.read([after - 1], 1)
    kinds = loop.kinds(origins, design.horizon) | {combining.SMOOTHED: loop.bounded(origins, ahead[None])}
    share = model.combination.of(name)
    mixed = sum(weight * kinds[kind][0] for kind, weight in zip(combining.KINDS, share.weights, strict=True) if weight)
    return rows.restored(mixed[None], np.array([len(rows) - 1]))[0].tolist()


@needs_node
@pytest.mark.parametrize("extra", [[], ["--transform", "log"]], ids=["plain", "log"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_forecaster_gives_the_same_forecast(cell, extra, tmp_path):
    days = [
        f"2026-01-{d + 1:02}" if d < 31 else f"2026-02-{d - 30:02}" if d < 59 else f"2026-03-{d - 58:02}"
        for d in range(80)
    ]
    values = [20 + d / 5 + 6 * np.sin(2 * np.pi * d / 7) + d % 3 for d in range(80)]
    rows = [f"{day},{value:.3f}\n" for day, value in zip(days, values, strict=True)]
    (tmp_path / "sales.csv").write_text("day,sales\n" + "".join(rows[:70]))
    (tmp_path / "more.csv").write_text("day,sales\n" + "".join(rows[70:76]))
    words = ["train", str(tmp_path / "sales.csv"), "--target-column", "sales", "--horizon", "5", "--cell", cell, *extra]
    run = tmp_path / "run"
    assert main([*words, "--max-steps", "30", "--threads", "1", "--sample-steps", "0", "--output-dir", str(run)]) == 0
    model = textgen.load(run)
    before, wanted = (model.predict(tmp_path / f"{name}.csv", number=400, seed=1)[0] for name in ("sales", "more"))
    later = [float(row.split(",")[1]) for row in rows[70:76]]
    found, first = in_node(
        tmp_path, module(run, tmp_path), ["forecast", later, {"paths": 400, "seed": 1}], ["forecast", [], {"paths": 0}]
    )
    assert first["times"] == before.times and first["values"] == pytest.approx(before.values.tolist(), rel=1e-4)
    assert first["times"][0] == days[70] and first["low"] is None
    # Later values are smoothed with the settings found before them.
    assert found["times"] == wanted.times and found["values"] == pytest.approx(
        with_kept_settings(model, later), rel=1e-4
    )
    for bounds in ("low", "high"):
        width = wanted.high - wanted.low
        assert (np.abs(np.array(found[bounds]) - getattr(wanted, bounds)) < 0.35 * width).all(), "from other draws"


@needs_node
def test_mistakes_in_javascript_are_one_sentence(folders, tmp_path):
    calls = [
        ["generate", "a", {"temprature": 1}],
        ["generate", "a", {"top_p": 2}],
        ["generate", "\ud800", {}],
        ["classify", "a"],
        ["forecast", []],
    ]
    found = in_node(tmp_path, module(folders["char"], tmp_path), *calls)
    for said, wanted in zip(
        found,
        ["no option temprature", "top_p must be a number", "lone surrogate", "labels no texts", "no such series"],
        strict=True,
    ):
        assert said["error"].startswith("Error: ") or said["error"].startswith("ModelError: ")
        assert wanted in said["error"]


# --- the page ---


def parts_of(page):
    """The elements of a page that hold data, by id."""
    return dict(re.findall(r'<script type="text/plain" id="(\w+)">(.*?)</script>', page, flags=re.DOTALL))


def test_nothing_from_a_model_is_markup(folders, place):
    from textgen.export import bundle

    evil = "</script><img src=x onerror=alert(1)>"
    made = bundle.bundle(folders["char"])
    made.description.update(name=evil, card=evil, cell=evil)
    from textgen.export.html import html

    page = html(made).decode()
    assert "<img" not in page and "alert(1)" not in page and page.count("</script>") == 4
    parts = parts_of(page)
    assert json.loads(gzip.decompress(base64.b64decode(parts["description"])))["card"] == evil
    assert gzip.decompress(base64.b64decode(parts["weights"])) == made.weights
    assert parts["runtime"] == code()


def test_a_page_loads_nothing(folders):
    (page,) = export(folders["char"], folders["char"].parent / "page.html").values()
    shell = re.sub(r'<script type="text/plain".*?</script>', "", page.decode(), flags=re.DOTALL)
    assert not re.search(r"""(src|href)\s*=\s*["']|@import|url\(|\son\w+\s*=\s*["']|style\s*=\s*["']|https?:""", shell)
    policy = re.search(r'Security-Policy" content="([^"]*)"', shell)[1]
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe" not in policy
    assert not re.search(r"\beval\(|Function\(|</", code())


def test_an_export_is_the_same_each_time(folders, place):
    one, other = (export(folders["bpe"], place / "page.html", dtype="int8") for _ in range(2))
    assert one == other


# --- ONNX ---


def session_of(content):
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def begins(session, batch):
    """The states before the first token, as the metadata says."""
    about = json.loads(session.get_modelmeta().custom_metadata_map["textgen"])
    states = {}
    for state in about["states"]:
        shape = [batch if size == "B" else size for size in state["shape"]]
        row = np.array(state["begins"], dtype=float).reshape(
            [1, *shape[1:]] if isinstance(state["begins"], list) else []
        )
        states[state["name"]] = np.broadcast_to(row, shape).astype(state["dtype"])
    return states


@pytest.mark.parametrize("cell", CELLS)
def test_onnx_computes_the_step_and_the_sequence(cell, tmp_path):
    pytest.importorskip("onnx")
    folder = saved(tmp_path / "model", *made(cell))
    step, sequence = map(session_of, export(folder, tmp_path / "model.onnx", sequence=True).values())
    stepper, noise = load(folder, "numpy").stepper, np.random.default_rng(0)
    for batch in (1, 3, 64):
        ids = noise.integers(0, 11, (batch, 200 if batch == 3 else 5))
        state, given = stepper.initial_state(batch), begins(step, batch)
        for mine, theirs in zip(state, given.values(), strict=True):
            np.testing.assert_array_equal(mine, theirs)
        logits, *after = sequence.run(None, {"ids": ids, **given})
        whole, end = stepper.outputs(ids, state)
        for found, wanted in zip([logits, *after], [whole.swapaxes(0, 1), *end], strict=True):
            np.testing.assert_allclose(found, wanted, atol=TIE)
        for number, column in enumerate(ids.T):
            found, *after = step.run(None, {"ids": column, **given})
            wanted, state = stepper.step(column, state)
            np.testing.assert_allclose(found, wanted, atol=1e-5 if number == 0 else TIE)
            given = dict(zip(given, after, strict=True))


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_onnx_of_rounded_weights_is_numpys(dtype, tmp_path):
    pytest.importorskip("onnx")
    folder = saved(tmp_path / "model", *made("lstm", hidden_size=80, embedding_size=64))
    quantize(folder, tmp_path / "rounded", dtype=dtype)
    (content,) = export(folder, tmp_path / "model.onnx", dtype=dtype).values()
    (plain,) = export(folder, tmp_path / "model.onnx").values()
    assert len(content) < (0.6 if dtype == "float16" else 0.4) * len(plain)
    session, stepper = session_of(content), load(tmp_path / "rounded", "numpy").stepper
    ids = np.arange(3)
    found = session.run(["logits"], {"ids": ids, **begins(session, 3)})[0]
    np.testing.assert_allclose(found, stepper.step(ids, stepper.initial_state(3))[0], atol=1e-5)


def test_onnx_of_a_model_without_labels_opens_no_model(folders, place, monkeypatch):
    """Opening a forecaster needs torch; its graph does not."""
    pytest.importorskip("onnx")
    monkeypatch.setattr("textgen.export.stored.load", lambda folder: pytest.fail("the model was opened"))
    assert export(folders["char"], place / "model.onnx")


def test_onnx_of_classifiers(folders, place):
    pytest.importorskip("onnx")
    (content,) = export(folders["labels"], place / "model.onnx").values()
    session, model = session_of(content), textgen.load(folders["labels"])
    ids = np.arange(4)
    found = session.run(["logits"], {"ids": ids, **begins(session, 4)})[0]
    wanted = model.reader.step(ids, model.reader.initial_state(4))[0]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


# --- the command ---


def test_the_command_writes_what_the_ending_says(folders, place, capfd):
    for name, begins_with in (("friend.html", b"<!doctype html>"), ("model.onnx", b"\x08")):
        target = place / name
        assert main(["export", str(folders["char"]), str(target)]) == 0
        assert target.read_bytes().startswith(begins_with) and capfd.readouterr().out == f"{target}\n"
        assert main(["export", str(folders["bpe"]), str(target)]) == 0, "an earlier export is replaced"
        target.write_text("mine")
        assert main(["export", str(folders["char"]), str(target)]) == 1
        assert "exists already and is not an exported" in capfd.readouterr().err and target.read_text() == "mine"
    assert main(["export", str(folders["char"]), str(place / "js"), "--format", "js"]) == 0
    assert {path.name for path in (place / "js").iterdir()} >= {"textgen.js", "textgen.d.ts", "model.json", "model.bin"}
    assert main(["export", str(folders["char"]), str(place / "js"), "--format", "js"]) == 1
    assert main(["export", str(folders["char"]), str(place / "js"), "--format", "js", "--overwrite"]) == 0


def test_a_second_file_replaces_nothing_that_is_not_an_export(folders, tmp_path, capfd):
    pytest.importorskip("onnx")
    (tmp_path / "model-sequence.onnx").write_text("mine")
    assert main(["export", str(folders["char"]), str(tmp_path / "model.onnx"), "--sequence"]) == 1
    assert "model-sequence.onnx" in capfd.readouterr().err and not (tmp_path / "model.onnx").exists()
    assert (tmp_path / "model-sequence.onnx").read_text() == "mine"


def test_mistakes_are_one_sentence(folders, place, tmp_path):
    with pytest.raises(UsageError, match=r"'page' does not say what to export"):
        export(folders["char"], tmp_path.__class__("page"))
    with pytest.raises(UsageError, match="sequence is for ONNX, not for html"):
        export(folders["char"], place / "page.html", sequence=True)
    with pytest.raises(UsageError, match="dtype"):
        export(folders["char"], place / "page.html", dtype="int4")
    with pytest.raises(TextgenError, match="no model folder"):
        export(place / "nowhere", place / "page.html")


def test_a_model_that_needs_torch_says_so(tmp_path):
    folder = saved(tmp_path / "model", *made("lstm"))
    from textgen import storage

    (folder / "step.json").unlink()
    manifest = storage.read_manifest(folder)
    del manifest["files"]["step.json"]
    (folder / storage.MANIFEST).write_bytes(storage.seal(manifest))
    with pytest.raises(TextgenError, match=r"holds no step\.json, of which every export is made"):
        export(folder, tmp_path / "page.html")
