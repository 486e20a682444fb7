"""Laws of a comparison: equal sizes, equal text, the same cell under two names ties; stopped anywhere, it goes on."""

import json
import math
import random
import re
import shutil
import signal
import statistics
import sys
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from faults import Dying, Quick, tree
from hypothesis import given, settings
from hypothesis import strategies as st
from process import in_child
from terminal import refusal, run
from zoo import INSTALLED

from textgen import plugins, storage
from textgen.cells import Cell, GatedCell
from textgen.cli.compare import show_plan
from textgen.compare import DECIDED, CompareOptions, budget, make_request, planning, plot, results
from textgen.compare import comparison as rates
from textgen.compare.comparison import ComparisonStopped, InTraining, RateTried, RunEnded, compare, prepare
from textgen.compare.planning import counter, require_both_parts
from textgen.compare.results import COMPARISON, interval, load_record, ranked, t_quantile, table, to_json
from textgen.errors import TextgenError, UsageError
from textgen.model import WEIGHTS
from textgen.model.weights import unpack
from textgen.options import declared, from_mapping, value_type
from textgen.storage import filesystem
from textgen.tasks import TrainOptions
from textgen.tasks.language.options import LanguageOptions
from textgen.tasks.sizes import embedding_for
from textgen.training.planner import ThisMachine

TEXT = "the cat sat on the mat. the dog sat on the log. " * 40
TINY = {"tokenizer": "char", "batch_size": 4, "seq_length": 8, "threads": 1, "device": "cpu", "eval_steps": 4}
THREE_CELLS = {
    "cells": ["rnn,elman,gru"], "budget": ["params=1500", "tokens=500"], "seeds": 2, "learning_rates": [0.01, 0.03],
}  # fmt: skip
MEASURED = ("seconds", "train_speed", "sample_speed", "peak_bytes")


@pytest.fixture(autouse=True, scope="module")
def quick():
    """No syncing, no measuring of speed, short trials and samples."""
    with pytest.MonkeyPatch.context() as patch:
        hurry(patch, Quick())
        yield


def hurry(patch, disk):
    patch.setattr(filesystem, "system", disk)
    patch.setattr(ThisMachine, "step_seconds", lambda *_, **__: 0.01)
    patch.setattr(rates, "FEWEST_STEPS", 5)
    patch.setattr(results, "SAMPLED", 3)
    patch.setattr(results, "SAMPLINGS", 1)


def asked(**options):
    own = {name: value for name, value in options.items() if name in CompareOptions.__dataclass_fields__}
    rest = {name: value for name, value in options.items() if name not in own}
    return make_request(from_mapping(CompareOptions, own), from_mapping(LanguageOptions, {**TINY, **rest}))


def begin(folder, **options):
    """A comparison on the text, in a folder beside it."""
    folder.parent.mkdir(exist_ok=True)
    text = folder.parent / "text.txt"
    if not text.exists():
        text.write_text(TEXT)
    return prepare([str(text)], asked(**{**THREE_CELLS, **options}), str(folder))


def figures(record):
    """All that came out, without what a clock and a meter say, and the decisions."""
    runs = {
        (candidate.name, seed): [value for name, value in vars(result).items() if name not in MEASURED]
        for candidate in record.candidates
        for seed, result in candidate.runs.items()
    }
    return runs, [(e.name, e.parameters, e.options, e.rate, e.tried, e.failed) for e in record.candidates]


def weights(folder):
    return {path.parent.name: path.read_bytes() for path in sorted(folder.glob(f"*-seed*/{WEIGHTS}"))}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A comparison that was never stopped, and what happened in it."""
    folder = tmp_path_factory.mktemp("whole") / "comparison"
    comparison = begin(folder)
    return SimpleNamespace(folder=folder, events=list(comparison.events()), record=load_record(folder))


# --- what is equal ---

TARGETS = (20_000, 200_000, 1_000_000, 5_000_000)


def default_embedding(kind):
    return lambda hidden: embedding_for(kind, hidden)


@pytest.mark.parametrize("name", INSTALLED)
@pytest.mark.parametrize("kind, vocab_size", [("char", 67), ("bpe", 2000)])
def test_a_size_is_found_for_every_cell_and_budget(name, kind, vocab_size):
    count = counter(TrainOptions(), kind, vocab_size, name, {})
    for target in TARGETS:
        found, embedding = planning.agree({name: count}, target, default_embedding(kind))
        assert found[name].parameters == count(found[name].hidden, embedding)
        assert abs(found[name].parameters / target - 1) <= 0.02, target


@pytest.mark.parametrize("target", TARGETS[1:])
def test_all_cells_agree_within_two_percent(target):
    counts = {name: counter(TrainOptions(), "char", 67, name, {}) for name in INSTALLED}
    found, _ = planning.agree(counts, target, default_embedding("char"))
    reached = [size.parameters for size in found.values()]
    assert found.keys() == INSTALLED.keys()
    assert max(reached) <= 1.02 * min(reached)


@given(st.integers(1, 40), st.integers(0, 50), st.integers(2000, 10**7), st.integers(1, 3000))
def test_sizes_that_a_cell_refuses_are_passed_over(divisor, linear, target, guess):
    def count(hidden):
        return None if hidden % divisor else 3 * hidden**2 + linear * hidden

    found = planning.nearest(count, target, guess)
    around = [h for h in range(found.hidden - divisor, found.hidden + divisor + 1, divisor) if h > 0]
    nearest = min(abs(count(h) - target) for h in around) / target
    assert found.hidden % divisor == 0 and count(found.hidden) == found.parameters
    assert found.distance(target) <= max(nearest, planning.NEAR)


def test_what_is_trained_is_what_was_counted(whole):
    for candidate in whole.record.candidates:
        folder = whole.folder / f"{candidate.slug}-seed1"
        stored = unpack((folder / WEIGHTS).read_bytes(), WEIGHTS)
        assert sum(tensor.numel() for tensor in stored.values()) == candidate.parameters
        assert abs(candidate.parameters / 1500 - 1) <= 0.02


def test_the_same_cell_under_two_names_ties_to_the_bit(whole):
    rnn, elman, _ = whole.record.candidates
    assert rnn.tried == elman.tried and rnn.rate == elman.rate
    for seed in whole.record.seeds:
        assert rnn.runs[seed].bits_per_byte == elman.runs[seed].bits_per_byte
        assert weights(whole.folder)[f"rnn-seed{seed}"] == weights(whole.folder)[f"elman-seed{seed}"]
    made = {row.name: row for row in ranked(whole.record)}
    assert made["rnn"].mean == made["elman"].mean and made["rnn"].rank == made["elman"].rank
    assert rnn.runs[1].bits_per_byte != rnn.runs[2].bits_per_byte


def test_everything_but_the_cell_and_its_rate_is_equal(whole):
    plans = [vars(candidate.plan) for candidate in whole.record.candidates]
    differ = {name for name in plans[0] if len({repr(plan[name]) for plan in plans}) > 1}
    assert differ <= {"cell", "cell_options", "hidden_size", "learning_rate"}
    assert all(plan["max_steps"] == round(500 / 32) for plan in plans)


def test_minutes_give_faster_cells_more_steps_and_the_same_cell_the_same(monkeypatch, tmp_path):
    measured = iter([0.01, 0.04])  # for rnn and gru; elman is rnn, and is not measured again
    monkeypatch.setattr(ThisMachine, "step_seconds", lambda *_, **__: next(measured))
    comparison = begin(tmp_path / "comparison", budget=["params=1500,minutes=0.5"])
    rnn, elman, gru = (candidate.plan.max_steps for candidate in comparison.record.candidates)
    assert rnn == elman and 3 * gru < rnn < 5 * gru


def test_cells_take_turns(whole):
    ran = [(event.seed, event.name) for event in whole.events if isinstance(event, RunEnded)]
    assert ran == [(seed, name) for seed in (1, 2) for name in ("rnn", "elman", "gru")]
    tried = [event.name for event in whole.events if isinstance(event, RateTried)]
    assert tried == ["rnn", "elman", "gru"] * 2


# --- learning rates ---


@given(st.floats(-4, 4), st.floats(1e-4, 1e-2))
def test_the_best_rate_is_found_wherever_it_lies(away, planned):
    """The loss is a parabola over the logarithm of the rate; its lowest point on the grid is found."""
    tried = {}
    while (rate := rates.next_rate(planned, tried)) is not None:
        assert rate not in tried
        tried[rate] = (math.log2(rate / planned) - away) ** 2
    assert abs(math.log2(rates.best(tried) / planned) - away) <= 0.51
    assert len(tried) <= rates.MOST


def test_rates_that_fail_are_followed_by_lower_ones():
    tried = {}
    while (rate := rates.next_rate(0.1, tried)) is not None:
        tried[rate] = None if rate > 0.01 else rate
    assert rates.best(tried) < 0.01
    assert rates.best(dict.fromkeys(tried)) is None


def test_rates_that_are_given_are_tried_and_no_others():
    tried = {}
    while (rate := rates.next_rate(0.1, tried, (0.3, 0.5))) is not None:
        tried[rate] = rate
    assert tried == {0.3: 0.3, 0.5: 0.5}
    assert rates.next_rate(0.1, {}, (0.3,)) is None


# --- going on ---


def test_a_comparison_stopped_after_any_number_of_events_ends_the_same(tmp_path, whole):
    folder, draw, stops = tmp_path / "comparison", random.Random(5), 0
    while True:
        comparison, left, stopped = begin(folder), draw.randint(20, 90), False
        for number, event in enumerate(comparison.events()):
            comparison.stop = comparison.stop or number >= left
            stopped = isinstance(event, ComparisonStopped)
        stops += stopped
        if not stopped:
            break
    assert stops >= 3
    assert figures(load_record(folder)) == figures(whole.record)
    assert weights(folder) == weights(whole.folder)


def test_a_run_that_was_cut_short_goes_on_from_its_checkpoint(tmp_path):
    folder, alone = tmp_path / "comparison", {"cells": ["gru,rnn"], "learning_rates": [0.01], "seeds": 1}
    comparison = begin(folder, **alone)
    for event in comparison.events():
        comparison.stop = comparison.stop or (isinstance(event, InTraining) and event.event.step == 9)
    steps = [event.event.step for event in begin(folder, **alone).events() if isinstance(event, InTraining)]
    assert steps[0] == 10 and sorted(set(steps[: steps.index(1)])) == [*range(10, 17)]


def go_on(folder, calls=0):
    """Go on with a comparison in a process that dies at a call of the disk (0: never)."""
    hurry(pytest.MonkeyPatch(), Dying(calls))
    for _ in begin(folder).events():
        pass


def test_a_comparison_killed_at_random_ends_the_same(tmp_path, whole):
    folder, draw = tmp_path / "comparison", random.Random(2)
    begin(folder)
    ends = [in_child(go_on, folder, draw.randint(30, 150)) for _ in range(4)]
    assert ends[0] == -signal.SIGKILL
    assert in_child(go_on, folder) == 0
    assert figures(load_record(folder)) == figures(whole.record)
    assert weights(folder) == weights(whole.folder)
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {
        f"{name}-seed{seed}" for name in ("rnn", "elman", "gru") for seed in (1, 2)
    }


def test_a_comparison_that_is_done_repeats_nothing(whole):
    before = tree(whole.folder)
    assert list(begin(whole.folder).events()) == []
    assert tree(whole.folder) == before


@pytest.mark.parametrize(
    "change, names",
    [
        ({"seeds": 3}, r"^seeds is 3, but the comparison in .* has 2\.$"),
        ({"cells": ["rnn,gru"]}, r"^cells is rnn,gru, but the comparison in .* has rnn,elman,gru\.$"),
        ({"budget": ["params=1500", "tokens=600"]}, r"^budget is params=1500,tokens=600, but .* has params=1500,tok"),
        ({"learning_rates": []}, r"^learning_rates is none, but .* has 0\.01,0\.03\.$"),
        ({"dropout": 0.1}, r"^dropout is 0\.1, but .* has the default\.$"),
    ],
)
def test_another_command_line_is_refused_by_what_differs(whole, change, names):
    with pytest.raises(UsageError, match=names):
        begin(whole.folder, **change)


def test_another_text_is_refused(tmp_path):
    begin(tmp_path / "comparison")
    (tmp_path / "text.txt").write_text(TEXT * 2)
    with pytest.raises(UsageError, match="the corpus is not that of the comparison"):
        begin(tmp_path / "comparison")


def test_without_a_folder_the_same_comparison_is_found_and_another_is_new(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)
    first = prepare(["text.txt"], asked(**THREE_CELLS))
    again = prepare(["text.txt"], asked(**THREE_CELLS))
    other = prepare(["text.txt"], asked(**{**THREE_CELLS, "seeds": 1}))
    assert [c.folder.name for c in (first, again, other)] == ["compare-text-1", "compare-text-1", "compare-text-2"]


def test_a_damaged_comparison_is_named(tmp_path):
    folder = begin(tmp_path / "comparison").folder
    (folder / COMPARISON).write_bytes((folder / COMPARISON).read_bytes().replace(b"gru", b"gro"))
    with pytest.raises(storage.DamagedError, match=r"comparison\.json is damaged"):
        begin(folder)


# --- cells that fail ---


class Refuses(Cell):
    def __init__(self, input_size, hidden_size):
        raise ValueError("no size pleases")

    def step(self, x, state):
        raise AssertionError


class Raises(GatedCell):
    gates = 1

    def activate(self, wx, rh, state):
        raise RuntimeError("it cannot step")


class Overflows(GatedCell):
    gates = 1

    def activate(self, wx, rh, state):
        h = torch.exp(100 * (1 + torch.square(wx + rh)))
        return h, (h,)


class Wears(GatedCell):
    """Works until it is worn out."""

    gates = 1
    worn_out = False

    def activate(self, wx, rh, state):
        if Wears.worn_out:
            raise MemoryError
        h = torch.tanh(wx + rh)
        return h, (h,)


FAILING = {
    "refuses": (Refuses, "it accepts no hidden size"),
    "raises": (Raises, "its training failed at every learning rate|RuntimeError: it cannot step"),
    "twin": (Raises, "its training failed at every learning rate|RuntimeError: it cannot step"),
    "overflows": (Overflows, "its training failed at every learning rate"),
    "broken": (None, "which failed to load"),
    "wears": (Wears, "^1 of 2 runs failed: MemoryError"),
}


@pytest.fixture
def failing(monkeypatch):
    """The failing cells, installed."""
    entries, owner, cell = plugins.entries, plugins.owner, plugins.cell
    mine = {name: plugins.Entry(name, "nowhere", "textgen-failing", "1") for name in FAILING}

    def load_cell(name):
        if name in FAILING and FAILING[name][0] is None:
            raise plugins.PluginError(f"cell {name!r} comes from nowhere, which failed to load.")
        return FAILING[name][0] if name in FAILING else cell(name)

    added = {name: [entry] for name, entry in mine.items()}
    monkeypatch.setattr(
        plugins, "entries", lambda kind="cells": entries() | added if kind == "cells" else entries(kind)
    )
    monkeypatch.setattr(
        plugins, "owner", lambda name, kind="cells": (kind == "cells" and mine.get(name)) or owner(name, kind)
    )
    monkeypatch.setattr(plugins, "cell", load_cell)


def test_a_cell_that_fails_stops_no_other(tmp_path, failing):
    comparison = begin(tmp_path / "comparison", cells=[*FAILING, "gru"])
    for event in comparison.events():
        assert not isinstance(event, ComparisonStopped)
        Wears.worn_out = Wears.worn_out or isinstance(event, RunEnded)
    made = ranked(comparison.record)
    assert made[0].name == "gru" and made[0].seeds == 2 and made[0].note is None
    for row in made[1:]:
        assert re.search(FAILING[row.name][1], row.note), row
        assert (row.mean is None) == (row.rank is None) == (row.seeds == 0)
    shown = table(comparison.record)
    assert all(f"{row.name}: {row.note}" in shown for row in made[1:])
    assert list(begin(comparison.folder, cells=[*FAILING, "gru"]).events()) == []


@pytest.mark.parametrize("cells", ["raises,gru", "raises,twin,gru"])
def test_a_cell_that_fails_while_it_is_planned_may_come_first(tmp_path, failing, monkeypatch, cells):
    def step_seconds(machine, config, *_, **__):
        if config.cell != "gru":
            raise RuntimeError("it cannot step")
        return 0.01

    monkeypatch.setattr(ThisMachine, "step_seconds", step_seconds)
    comparison = begin(tmp_path / "comparison", cells=cells.split(","))
    show_plan(comparison)
    to_json(comparison.record)
    assert [candidate.cell for candidate in comparison.record.running] == ["gru"]


def test_the_part_that_is_held_out_may_be_chosen(tmp_path):
    chosen = [begin(tmp_path / f"{share}", cells=["gru,rnn"], validation_split=share) for share in (0.1, 0.3)]
    held_out = [comparison.store.about["bytes"]["validation"] for comparison in chosen]
    assert held_out[1] > 2 * held_out[0]


def test_options_of_the_corpus_are_used_once(tmp_path):
    """The runs read the tokens of the comparison, to which every option of the corpus belongs."""
    table = tmp_path / "table.csv"
    table.write_text("id;text\n" + "".join(f"{k};{TEXT}\n" for k in range(4)))
    own = {**THREE_CELLS, "cells": ["rnn,gru"], "delimiter": ";", "text_column": "text", "document_separator": "dog"}
    comparison = prepare([str(table)], asked(**own), str(tmp_path / "comparison"))
    assert comparison.record.request["delimiter"] == ";" and len(comparison.record.running) == 2


def test_a_comparison_in_which_nobody_can_run_is_refused(tmp_path, failing):
    with pytest.raises(TextgenError, match=r"no cell can run: broken: .* failed to load"):
        begin(tmp_path / "comparison", cells=["broken,refuses"])


# --- results ---


def test_the_quantiles_of_student_are_those_of_the_tables():
    tables = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 10: 2.228, 30: 2.042, 120: 1.980}
    assert {freedom: round(t_quantile(0.975, freedom), 3) for freedom in tables} == tables


def test_nineteen_of_twenty_intervals_hold_the_mean():
    draw = random.Random(1)
    held = 0
    for _ in range(2000):
        low, high = interval([draw.gauss(5, 2) for _ in range(3)])
        held += low <= 5 <= high
    assert 0.935 <= held / 2000 <= 0.965
    assert interval([1.0]) is None


def test_the_table_and_the_json_agree(whole):
    made, content = table(whole.record).splitlines(), to_json(whole.record)
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    for line, row in zip(made[1:], content["results"], strict=False):
        rank, name, parameters, hidden, rate, loss, between, *_ = line.split()
        assert (rank.rstrip("="), name) == (str(row["rank"]), row["name"])
        assert (int(parameters.replace(",", "")), int(hidden)) == (row["parameters"], row["hidden_size"])
        assert float(loss) == round(row["mean"], 4) and float(rate) == pytest.approx(row["learning_rate"], rel=0.05)
        assert between == f"{row['low']:.4f}-{row['high']:.4f}"
        runs = [run["bits_per_byte"] for run in content["runs"][name]]
        assert row["mean"] == statistics.fmean(runs) and all(run["peak_bytes"] for run in content["runs"][name])
    assert [row["mean"] for row in content["results"]] == sorted(row["mean"] for row in content["results"])


def test_runs_are_ordinary_runs(whole):
    candidate = whole.record.candidates[2]
    done = run("evaluate", "-m", whole.folder / "gru-seed2", "--json", "--threads", "1")
    assert json.loads(done.out)["bits_per_byte"] == pytest.approx(candidate.runs[2].bits_per_byte, rel=1e-5)
    assert run("sample", "-m", whole.folder / "gru-seed1", "--max-new-tokens", "5").code == 0
    listed = json.loads(run("runs", "list", whole.folder, "--json").out)
    assert len(listed) == 6 and all(row["step"] == row["steps"] for row in listed)


def test_one_seed_has_no_interval_and_ties_only_when_equal(tmp_path):
    comparison = begin(tmp_path / "comparison", seeds=1, learning_rates=[0.02])
    assert not any(isinstance(event, RateTried) for event in comparison.events())
    by_name = {row.name: row for row in ranked(comparison.record)}
    assert by_name["rnn"].low is None and by_name["rnn"].rank == by_name["elman"].rank
    assert " - " in table(comparison.record)


# --- the plot ---


@settings(max_examples=200)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.1))
def test_labels_keep_their_order_and_their_distance(wanted, gap):
    places = plot.spread(wanted, gap)
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    assert all(places[b] - places[a] >= gap * (1 - 1e-9) for a, b in pairwise(order))
    assert statistics.fmean(places) == pytest.approx(statistics.fmean(wanted))
    above = plot.spread(wanted, gap, floor=0.3)
    assert min(above) >= 0.3 and all(above[b] - above[a] >= gap * (1 - 1e-9) for a, b in pairwise(order))


def test_the_plot_shows_every_cell(whole, tmp_path):
    pytest.importorskip("matplotlib")
    folder = shutil.copytree(whole.folder, tmp_path / "comparison")
    found = plot.curves(folder, whole.record)
    assert {curve.name for curve in found} == {"rnn", "elman", "gru"}
    for curve in found:
        assert curve.tokens == [128, 256, 384, 512] and curve.seconds == sorted(curve.seconds)
        assert all(low <= mean <= high for low, mean, high in zip(curve.low, curve.mean, curve.high, strict=True))
    assert plot.draw(folder, whole.record).read_bytes().startswith(b"\x89PNG")


# --- the command ---


@pytest.fixture
def desk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path


COMMAND = [
    *("text.txt", "--cells", "gru,rnn", "--budget", "params=1500", "--budget", "tokens=500", "--seeds", "1"),
    *("--learning-rates", "0.02", "--tokenizer", "char", "--batch-size", "4", "--seq-length", "8", "--threads", "1"),
]


def test_the_command_writes_a_table_and_then_the_same_as_json(desk, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    shown = run("compare", *COMMAND)
    assert shown.code == 0, shown.err
    assert "textgen-lm[plot]" in shown.err and "run     gru  seed 1" in shown.err
    again = run("compare", *COMMAND, "--json", "--quiet")
    content = json.loads(again.out)
    names = [result["name"] for result in content["results"]]
    assert [line.split()[:2] for line in shown.text.splitlines()[1:3]] == [["1", names[0]], ["2", names[1]]]
    assert sorted(names) == ["gru", "rnn"]
    assert f"{content['results'][0]['mean']:.4f}" in shown.text
    assert [path.name for path in desk.glob("runs/compare-*")] == ["compare-text-1"]


def test_the_command_takes_a_folder_and_goes_on_there(desk):
    shown = run("compare", *COMMAND, "--output-dir", "mine")
    assert shown.code == 0, shown.err
    assert (desk / "mine" / "comparison.json").is_file()
    again = run("compare", *COMMAND, "--output-dir", "mine", "--seeds", "2")
    assert again.code == 2 and "seeds" in again.err


def test_a_dry_run_shows_the_plan_and_makes_no_comparison(desk):
    shown = run("compare", *COMMAND, "--dry-run")
    assert (shown.code, shown.out) == (0, b"")
    assert "2 cells x 1 seed" in shown.err and re.search(r"gru +1,\d\d\d +\d+\.\d%", shown.err)
    assert list(desk.glob("runs/compare-*")) == []


MISTAKES = [
    ("", r"no corpus given\.$"),
    ("txet.txt", r"corpus 'txet\.txt' does not exist"),
    ("text.txt --cells rnn,lsmt", r"no cell named 'lsmt'\. Did you mean 'lstm'\?$"),
    ("text.txt --cells ,", r"--cells names no cell\.$"),
    ("text.txt --cells gru", r"--cells names only 'gru'; a comparison needs at least two cells\.$"),
    ("text.txt --cells rnn,gru,rnn", r"--cells names 'rnn' twice\.$"),
    ("text.txt --cells rnn,lstm:forget_bias", r"--cells 'lstm:forget_bias' must be NAME or NAME:OPTION=VALUE"),
    ("text.txt --cells rnn,lstm:forget=1", r"cell 'lstm' has no option 'forget'\. Did you mean 'forget_bias'\?$"),
    ("text.txt --cells rnn:nonlinearity=tan,gru", r"cell option nonlinearity must be 'tanh' or 'relu', not 'tan'\.$"),
    ("text.txt --budget param=1M", r"--budget must be params=N, .* not 'param=1M'\. Did you mean 'params'\?$"),
    ("text.txt --budget params=many", r"--budget params must be a number such as 200k or 1\.5M, not 'many'\.$"),
    ("text.txt --budget params=0", r"--budget params must be a number such as"),
    (
        "text.txt --budget params=10",
        r"--budget params=10 is too small: 'rnn' has \d+ parameters at its smallest size\.$",
    ),
    ("text.txt --budget minutes=0", r"--budget minutes must be a number above 0"),
    ("text.txt --budget tokens=1k,minutes=1", r"--budget tokens and --budget minutes exclude each other"),
    ("text.txt --budget tokens=1k --budget tokens=2k", r"--budget tokens is given twice\.$"),
    ("text.txt --seeds 0", r"--seeds must be a whole number from 1 to 1,000, not 0\.$"),
    ("text.txt --learning-rates 0.1,zero", r"--learning-rates must be numbers above 0 and at most 100, not 'zero'\.$"),
    ("text.txt --validation-split 0", r"--validation-split 0 holds nothing out, so cells cannot"),
    ("text.txt --hidden-size 8", r"No such option '--hidden-size'"),
    ("text.txt --weight-drop 0.1 --cells rnn,gru --budget tokens=100,params=2k --dropout 2", r"--dropout must be"),
]


@pytest.mark.parametrize("typed, said", MISTAKES, ids=[typed for typed, _ in MISTAKES])
def test_mistakes_are_a_sentence(desk, typed, said):
    sentence, _ = refusal(run("compare", *typed.split()), 2)
    assert re.match(said, sentence), sentence
    assert list(desk.glob("runs/compare-*")) == []


def test_a_text_too_short_to_compare_on_is_refused(desk):
    with pytest.raises(TextgenError, match="nothing is held out of this corpus"):
        require_both_parts(SimpleNamespace(model_tokens=lambda part: [3]))
    (desk / "short.txt").write_text("ab")
    sentence, _ = refusal(run("compare", "short.txt", "--budget", "params=1k", "--budget", "tokens=100"), 1)
    assert sentence.startswith("no cell can run: rnn: the training part has 2 tokens")


@pytest.mark.parametrize("name", sorted({*DECIDED} - {*CompareOptions.__dataclass_fields__}))
def test_what_the_comparison_decides_cannot_be_given(name):
    other = {"cell": "gru", "cell_options": {"a": 1}, "report_to": ["tensorboard"], "overwrite_output_dir": True,
             "size": "tiny", "init_from": "x"}  # fmt: skip
    its = {f.name: declaration for f, declaration in declared(TrainOptions)}[name]
    kind, default = value_type(TrainOptions, name)[0], getattr(TrainOptions(), name)
    usual = {str: "x", list: ["x"], int: default + 1 if isinstance(default, int) else 1}.get(kind, 1)
    fitting = next((each for each in its.choices if each != default), usual)
    with pytest.raises(UsageError, match=rf"^{name} is set by the comparison"):
        asked(**{name: other.get(name, fitting)})


def test_budgets_are_read_as_people_write_them():
    assert budget(["params=1,500,000, tokens=2.5k"]) == budget(["tokens=2500", "params=1.5M"])
    assert budget(["minutes=0.5"]).minutes == 0.5 and budget([]).params is None


def test_from_python(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)
    own = {"cells": ["gru", "rnn"], "budget": ["params=1500", "tokens=500"], "seeds": 1}
    row, other = compare("text.txt", **own, **TINY)
    assert {row.name, other.name} == {"gru", "rnn"} and 0 < row.mean < other.mean and (row.rank, other.rank) == (1, 2)
    stored = load_record(tmp_path / "runs" / "compare-text-1").candidates
    candidate = next(each for each in stored if each.name == row.name)
    tried = sorted(candidate.tried)
    assert len(tried) >= 3 and all(after == pytest.approx(2 * before) for before, after in pairwise(tried))
    assert row.learning_rate == rates.best(candidate.tried)
