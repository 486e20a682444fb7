"""Laws of the conformance kit: right cells keep every law, each wrong one is caught by the law that is meant for it."""

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from terminal import refusal, run
from wrong_cells import WRONG, NoMemory, RefusesEverySize, Right, SeesTheFuture, StumblesOnNothing
from zoo import INSTALLED, WRITTEN

from textgen import plugins, testing
from textgen.cells import GatedCell
from textgen.errors import TextgenError, UsageError
from textgen.testing.law import Case, CaseConfig, LawBroken, isolated, other_rng_states, process_settings
from textgen.testing.runner import (
    LAWS,
    MODULES,
    SIZES,
    Check,
    accepted_sizes,
    case_configs,
    check_cell,
    checks,
    expectation,
    parametrize_with_checks,
    representative_sizes,
    run_laws,
)

LONG = {"finite", "constant_memory", "constant_time"}
SLOW = {law.name for law in LAWS if law.slow}
NAMES = [law.name for law in LAWS]
KIT = [*(name for name in INSTALLED if name != "elman"), ("rnn", {"nonlinearity": "relu"}), *WRITTEN.values(), Right]


@parametrize_with_checks(KIT)
def test_every_cell_keeps_every_law(check):
    check()


def test_the_first_cell_that_a_process_traces_has_no_side_effects():
    """torch sets a variable of the environment then, which is not the cell's doing."""
    code = "from textgen import plugins; from textgen.testing.runner import checks\n"
    code += "[check] = checks([plugins.cell('gru')], ['no_side_effects']); check()"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
@parametrize_with_checks(KIT, laws=SLOW)
def test_every_cell_keeps_every_slow_law(check):
    check()


@pytest.mark.parametrize("cell", [c for c in WRONG if not SLOW & set(WRONG[c].split())], ids=lambda cell: cell.__name__)
def test_a_wrong_cell_breaks_the_law_that_is_meant_for_it_and_no_other(cell):
    expected = WRONG[cell].split()
    laws = [name for name in NAMES if name not in LONG | SLOW or name in expected]
    results = {result.law: result for result in run_laws(cell, laws=laws)}
    assert {law for law, result in results.items() if result.status == "failed"} == set(expected)
    assert all(results[law].detail for law in expected)


@pytest.mark.slow
@pytest.mark.parametrize("cell", [c for c in WRONG if SLOW & set(WRONG[c].split())], ids=lambda cell: cell.__name__)
def test_a_wrong_cell_breaks_the_slow_law_that_is_meant_for_it(cell):
    broken = {result.law for result in run_laws(cell, laws=["compiles", "exports"]) if result.status == "failed"}
    assert broken == set(WRONG[cell].split())


def test_every_law_has_a_wrong_cell_that_it_is_meant_for():
    meant = {laws.split()[0] for laws in WRONG.values()}
    assert set(NAMES) - meant == {"imports_fast"}  # which has a test of its own


@pytest.mark.slow
@pytest.mark.parametrize("seconds, status", [(0, "passed"), (1, "failed")])
def test_a_module_that_takes_long_to_import_is_noticed(tmp_path, monkeypatch, seconds, status):
    (tmp_path / "a_slow_cell.py").write_text(
        f"import sys, time\nfrom wrong_cells import Right\ntime.sleep({seconds})\nclass Slow(Right): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        from a_slow_cell import Slow
    finally:
        sys.modules.pop("a_slow_cell", None)
    (result,) = run_laws(Slow, laws=["imports_fast"])
    assert result.status == status, result


def test_a_broken_law_is_shown_in_the_smallest_case_with_what_it_means():
    with pytest.raises(LawBroken) as raised:
        check_cell(SeesTheFuture)
    shown = str(raised.value)
    assert shown.startswith("SeesTheFuture breaks the law forward_matches_step")
    assert "T=1, B=1, input_size=1, hidden_size=1" in shown
    assert raised.value.law.meaning in shown and "differs by" in shown
    assert isinstance(raised.value, AssertionError) and raised.value.result.deviation > 1e-3
    (causality,) = run_laws(SeesTheFuture, laws=["causality"])
    assert "T=2, B=1" in causality.case


def test_what_a_cell_raises_is_shown_with_its_place_and_is_the_cause():
    with pytest.raises(LawBroken, match=r"RuntimeError at wrong_cells.py:\d+: stack expects") as raised:
        check_cell(StumblesOnNothing)
    assert isinstance(raised.value.__cause__, RuntimeError)


class Big(Right):
    """Breaks a law only where T >= 4, B >= 2 and there are three units: the smallest case is known."""

    def forward(self, xs, state=None):
        ys, state = super().forward(xs, state)
        return (ys + 1 if len(xs) >= 4 and xs.shape[1] >= 2 and self.hidden_size >= 3 else ys), state


def test_the_smallest_case_is_the_smallest():
    (result,) = run_laws(Big, laws=["forward_matches_step"])
    assert result.case == "T=4, B=2, input_size=2, hidden_size=3, float64"
    assert result.deviation == pytest.approx(1, rel=0.5)


class Eights(Right):
    def __init__(self, input_size, hidden_size):
        if hidden_size % 8 or input_size != hidden_size:
            raise ValueError("only as many inputs as units, in eights")
        super().__init__(input_size, hidden_size)


def test_sizes_are_those_that_the_constructor_takes():
    assert accepted_sizes(Right, {})[0] == list(SIZES[:12])
    assert set(accepted_sizes(Eights, {})[0]) == {(8, 8), (16, 16), (32, 32), (64, 64), (128, 128), (256, 256)}
    assert {result.status for result in run_laws(Eights, laws=["forward_matches_step", "finite"])} == {"passed"}
    results = list(run_laws(RefusesEverySize))
    assert "a dozen dozens" in results[0].detail and {result.status for result in results[1:]} == {"skipped"}


def test_the_cases_have_ones_and_primes_and_every_kind_of_size():
    tried = list(
        case_configs(
            next(law for law in LAWS if law.name == "forward_matches_step"), representative_sizes(list(SIZES), 1)
        )
    )
    sizes = {(case.input_size, case.hidden_size) for case in tried}
    assert {(i > h) - (i < h) for i, h in sizes if h > 1} == {-1, 0, 1} and (1, 1) in sizes
    assert {case.length for case in tried} == {1, 2, 7, 19}
    assert {case.dtype for case in tried} == {torch.float32, torch.float64}


class InPlace(Right):
    def step(self, x, state):
        (h,) = state
        h.mul_(0.5).add_(torch.tanh(self.input(x) + self.recurrent(h)))  # first
        return h, (h,)


class InPlacePart(Right):
    def step(self, x, state):
        (h,) = state
        h[:, 0] += torch.tanh(self.input(x))[:, 0]  # first
        return super().step(x, (h,))


class InPlaceGated(GatedCell):
    gates = 1

    def activate(self, wx, rh, state):
        (h,) = state
        h *= 0.5  # first
        h += torch.tanh(wx + rh)
        return h.clone(), (h,)


class InPlaceInput(Right):
    def step(self, x, state):
        x -= x.mean(-1, keepdim=True) / 2  # first
        return super().step(x, state)


class InPlaceSequence(Right):
    def step(self, x, state):
        return super().step(x.clamp(-0.5, 0.5), state)

    def forward(self, xs, state=None):
        xs.clamp_(-0.5, 0.5)  # first
        return super().forward(xs, state)


class InPlaceWeight(Right):
    def step(self, x, state):
        with torch.no_grad():
            self.recurrent.weight.data.clamp_(-0.01, 0.01)  # first
        return super().step(x, state)


IN_PLACE = {
    InPlace: "step changes state[0] in place at {} (mul_)",
    InPlacePart: "step changes state[0] in place at {} (add_)",
    InPlaceGated: "step changes state[0] in place at {} (mul_)",
    InPlaceInput: "step changes xs in place at {} (sub_)",
    InPlaceSequence: "forward changes xs in place at {} (clamp_)",
    InPlaceWeight: "step changes recurrent.weight in place at {} (clamp_)",
}


def first_line(cell):
    lines, start = inspect.getsourcelines(cell)
    return f"test_testing.py:{start + next(k for k, line in enumerate(lines) if '# first' in line)}"


@pytest.mark.parametrize("cell", IN_PLACE, ids=lambda cell: cell.__name__)
def test_a_change_in_place_is_reported_first_and_as_the_cause_of_the_rest(cell):
    cause = IN_PLACE[cell].format(first_line(cell))
    failed = [r for r in run_laws(cell, laws=set(NAMES) - LONG - SLOW) if r.status == "failed"]
    assert failed[0].law == "no_mutation" and failed[0].detail == cause and not failed[0].cause
    if cell is not InPlaceWeight:  # copies of what it is given would not help it
        assert len(failed) > 2 and {result.cause for result in failed[1:]} == {cause}


def test_the_command_shows_the_cause_once_and_what_follows_from_it(monkeypatch):
    monkeypatch.setattr(plugins, "cell", {"rnn": InPlace}.get)
    laws = ["sizes", "causality", "no_mutation", "gradients_match_step"]
    done = run("plugins", "check", "rnn", *(word for law in laws for word in ("--law", law)))
    *_, cause, rest, summary, end = done.text.split("\n\n")
    assert (done.code, end) == (1, "") and cause.startswith("no_mutation failed\n  law ")
    assert f"found    step changes state[0] in place at {first_line(InPlace)} (mul_)" in cause
    assert rest.startswith(
        "failed for the same reason: causality, gradients_match_step\n  cause    step changes state[0]"
    )
    assert summary.startswith("rnn: 1 check passed, 3 failed in ")
    (check,) = checks([InPlace], laws=["causality"])
    with pytest.raises(LawBroken, match=r"causality\n  cause    step changes state\[0\] in place at test_testing.py:"):
        check()


def test_a_cell_that_breaks_other_laws_is_not_said_to_change_things_in_place():
    for cell in (SeesTheFuture, StumblesOnNothing):
        assert not any(r.cause for r in run_laws(cell, laws=["causality", "forward_matches_step", "empty_sequence"]))


def test_options_are_checked_and_used():
    assert {r.status for r in run_laws(INSTALLED["rnn"], {"nonlinearity": "relu"}, laws=["gradcheck"])} == {"passed"}
    for wrong in ({"nonlinearty": "relu"}, {"nonlinearity": "sine"}):
        with pytest.raises(UsageError, match="nonlinearity"):
            run_laws(INSTALLED["rnn"], wrong)
    with pytest.raises(UsageError, match=r"'causalty'\. Did you mean 'causality'"):
        run_laws(Right, laws=["causalty"])


def test_slow_laws_are_tried_when_asked_for():
    fast = [check.law.name for check in checks([Right])]
    assert fast == [name for name in NAMES if name not in SLOW]
    assert [check.law.name for check in checks([Right], slow=True)] == NAMES
    assert [check.law.name for check in checks([Right], laws=["finite", "sizes"])] == ["sizes", "finite"]


def declaring(cell, **failures):
    return type(cell.__name__, (cell,), {"expected_failures": failures})


def test_a_declared_failure_is_expected_and_a_failure_if_it_passes():
    cell = declaring(NoMemory, gradient_flow="it has no memory on purpose", causality="it sees the future")
    results = {r.law: r for r in run_laws(cell, laws=["gradient_flow", "causality", "all_parameters_used"])}
    assert {law: r.status for law, r in results.items()} == {
        "gradient_flow": "expected",
        "causality": "failed",
        "all_parameters_used": "failed",
    }
    assert "it has no memory on purpose" in results["gradient_flow"].detail
    assert "declared to fail (it sees the future), but passes" in results["causality"].detail


@pytest.mark.parametrize(
    "failures, said",
    [({"causalty": "x"}, "Did you mean 'causality'"), ({"causality": " "}, "no reason for 'causality'")],
)
def test_a_declaration_is_of_a_known_law_with_a_reason(failures, said):
    for ask in (run_laws, check_cell, lambda cell: checks([cell])):
        with pytest.raises(TextgenError, match=re.escape(said)):
            ask(declaring(Right, **failures))


def test_a_check_raises_what_is_broken_and_marks_what_is_declared():
    cell = declaring(StumblesOnNothing, empty_sequence="nobody asks for nothing")
    (check,) = checks([cell], laws=["empty_sequence"])
    with pytest.raises(LawBroken):
        check()
    (mark,) = expectation(check)
    assert mark.kwargs["strict"] and mark.kwargs["raises"] is LawBroken and "nobody asks" in mark.kwargs["reason"]
    assert expectation(Check("x", Right, {}, LAWS[0])) == []


def test_the_same_examination_gives_the_same_results():
    wrong = [list(run_laws(SeesTheFuture, laws=["causality", "gradcheck", "gradients_match_step"])) for _ in range(2)]
    assert wrong[0] == wrong[1]


def test_nothing_remains_of_what_a_cell_does_to_the_program(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before, torchs, others = process_settings(), torch.get_rng_state(), other_rng_states()
    for cell in WRONG:
        list(run_laws(cell, laws=["reproducible", "no_side_effects"]))
    assert process_settings() == before
    assert torch.equal(torch.get_rng_state(), torchs) and other_rng_states() == others


def test_a_kink_is_no_wrong_gradient():
    class Kinked(GatedCell):
        """relu with weights of a coarse grid, so that a draw often lies on a corner."""

        gates = 1
        draws = iter(range(10**6))

        def activate(self, wx, rh, state):
            h = torch.relu(wx + rh)
            return h, (h,)

    make = lambda i, h: Kinked(i, h)  # noqa: E731
    gradcheck = next(law for law in LAWS if law.name == "gradcheck")
    case = Case(make, CaseConfig(2, 1, 2, 3))
    drawn, honest = [], case.sequence

    def first_on_a_corner(*shape):
        drawn.append(honest(*shape))
        return drawn[-1] * 0 if len(drawn) == 1 else drawn[-1]

    with isolated():
        torch.nn.init.zeros_(case.cell.bias_ih), torch.nn.init.zeros_(case.cell.bias_hh)
        torch.nn.init.zeros_(case.cell.weight_hh)
        case.sequence = first_on_a_corner
        gradcheck.test(case)
    assert len(drawn) > 2


def test_the_public_names_are_there_and_import_nothing_until_used():
    assert set(testing.__all__) <= set(dir(testing))
    for name in testing.__all__:
        assert getattr(testing, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        testing.nothing


def test_every_module_of_laws_is_listed():
    found = {path.stem for path in Path(testing.__file__).parent.glob("laws_*.py")}
    assert {module.__name__.rpartition(".")[2] for module in MODULES} == found


def test_the_page_has_every_law_as_it_is():
    page = (Path(__file__).parents[1] / "docs" / "conformance.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", page, flags=re.M))
    assert rows == {law.name: law.statement for law in LAWS}


def test_the_command_shows_every_law_and_its_status():
    done = run("plugins", "check", "rnn", "elman", "--law", "causality", "--law", "gradcheck")
    assert done.code == 0 and done.text.startswith("rnn, elman: RNN from textgen-lm")
    assert re.findall(r"^(\w+) +(\w+) +\S+  ", done.text, flags=re.M) == [
        ("law", "status"),
        ("causality", "passed"),
        ("gradcheck", "passed"),
    ]
    assert "rnn: 2 checks passed in" in done.text


def test_the_command_fits_a_narrow_terminal(monkeypatch):
    for columns in (40, 80):
        monkeypatch.setenv("COLUMNS", str(columns))
        done = run("plugins", "check", "gru", "--law", "rows_independent", "--law", "reproducible", terminal=True)
        assert max(map(len, done.text.splitlines())) <= columns, done.text


def test_the_command_explains_what_is_broken(monkeypatch):
    monkeypatch.setattr(
        plugins, "cell", {"rnn": SeesTheFuture, "gru": declaring(NoMemory, gradient_flow="so be it")}.get
    )
    done = run("plugins", "check", "rnn", "gru", "--law", "causality", "--law", "gradient_flow")
    assert done.code == 1
    assert "causality failed\n  law      Outputs up to t do not" in done.text
    assert "in       T=2, B=1" in done.text and "meaning  Training would see the targets" in done.text
    assert (
        "rnn: 1 check passed, 1 failed in" in done.text and "gru: 1 check passed, 1 failed as declared in" in done.text
    )


def test_the_command_in_json(monkeypatch):
    monkeypatch.setattr(plugins, "cell", {"rnn": SeesTheFuture}.get)
    done = run("plugins", "check", "rnn", "--law", "causality", "--law", "sizes", "--json")
    (cell,) = json.loads(done.text)
    assert done.code == 1 and cell["cell"] == "rnn" and cell["problem"] is None
    assert [(law["law"], law["status"]) for law in cell["laws"]] == [("sizes", "passed"), ("causality", "failed")]
    assert cell["laws"][1]["deviation"] > 0 and cell["laws"][1]["case"].startswith("T=2")


def test_a_broken_plugin_gets_its_sentence_and_the_others_are_checked(monkeypatch):
    def cell(name):
        if name == "gru":
            raise plugins.PluginError("cell 'gru' comes from somewhere, which failed to load: it is a pity.")
        return INSTALLED[name]

    monkeypatch.setattr(plugins, "cell", cell)
    done = run("plugins", "check", "gru", "rnn", "--law", "sizes")
    assert (done.code, "rnn: 1 check passed" in done.text) == (1, True)
    assert done.err.startswith("Error: cell 'gru' comes from somewhere")
    assert json.loads(run("plugins", "check", "gru", "--law", "sizes", "--json").text)[0]["problem"].endswith("a pity.")


def test_the_command_refuses_what_does_not_exist():
    assert "Did you mean 'lstm'" in refusal(run("plugins", "check", "lsmt"), 2)[0]
    assert "'causalty'" in refusal(run("plugins", "check", "rnn", "--law", "causalty"), 2)[0]
    assert "one cell" in refusal(run("plugins", "check", "-o", "nonlinearity", "relu"), 2)[0]
    assert "no option 'speed'" in refusal(run("plugins", "check", "rnn", "-o", "speed", "1"), 2)[0]


def test_options_reach_the_cell():
    assert run("plugins", "check", "rnn", "-o", "nonlinearity", "relu", "--law", "gradcheck").code == 0
