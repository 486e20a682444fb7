"""Laws of groups: none is on both sides, and the split depends on the seed and their names alone."""

import numpy as np
import pytest
from faults import Quick
from hypothesis import given
from hypothesis import strategies as st
from sayings import TINY, csv_of, sayings

import textgen
from textgen.errors import TextgenError, UsageError
from textgen.storage import filesystem
from textgen.tasks.classification.baselines import texts_of
from textgen.tasks.classification.splits import held_out_groups, held_out_texts
from textgen.training.stored_data import data_of

NAMES = st.lists(st.text(max_size=3), min_size=2, max_size=40).filter(lambda names: len(set(names)) > 1)
GROUPED = {**TINY, "max_steps": 1, "group_column": "author", "tokenizer": "byte"}


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    monkeypatch.setattr(filesystem, "system", Quick())


@given(NAMES, st.floats(0.01, 0.9), st.integers(0, 99), st.randoms())
def test_the_split_depends_on_seed_and_names_alone(groups, share, seed, random):
    held = held_out_groups(groups, share, seed)
    shuffled = [*groups, *random.choices(groups, k=5)]
    random.shuffle(shuffled)
    assert held_out_groups(shuffled, share, seed) == held
    assert 1 <= len(held) < len(set(groups)) and abs(len(held) - share * len(set(groups))) <= 1


@given(NAMES, st.floats(0.01, 0.9), st.integers(0, 99))
def test_no_group_is_on_both_sides(groups, share, seed):
    numbers = np.zeros(len(groups), np.int64)
    held = held_out_texts(numbers, groups, ["a"], share, seed)
    sides = [{group for group, out in zip(groups, held, strict=True) if out == side} for side in (True, False)]
    assert not sides[0] & sides[1] and sides[0] and sides[1]


def test_another_seed_holds_out_other_groups():
    names = [f"author {k}" for k in range(50)]
    assert held_out_groups(names, 0.2, 1) != held_out_groups(names, 0.2, 2)


def written(path, count=60, authors=12):
    rows = [(f"a{k % authors} {text}", label, f"a{k % authors}") for k, (text, label) in enumerate(sayings(count))]
    return csv_of(rows, path, ("text", "label", "author"))


def authors(folder, part):
    return {text.split()[0] for text in texts_of(data_of(folder), part)}


def test_a_run_never_divides_an_author(tmp_path):
    path = written(tmp_path / "x.csv")
    folder = textgen.train(path, output_dir=str(tmp_path / "run"), **GROUPED)
    train, held = authors(folder, "train"), authors(folder, "validation")
    assert not train & held and len(train | held) == 12 and len(held) == 3
    lines = path.read_text().splitlines()
    (tmp_path / "y.csv").write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    other = textgen.train(tmp_path / "y.csv", output_dir=str(tmp_path / "other"), **GROUPED)
    assert authors(other, "validation") == held
    assert textgen.load(folder).evaluate(path).texts == 60, "the column is not needed again"


@pytest.mark.parametrize(("rows", "said"), [
    ([("a", "pos", "x"), ("b", "neg", "")], r"row 2 of '.*' has no group \(column 'author' is empty\)"),
    ([("a", "pos", "x"), ("b", "neg", "x"), ("c", "pos", "x"), ("d", "neg", "x")],
     "every text belongs to the group 'x'; at least two groups are needed"),
    ([("a", "pos", "x"), ("b", "pos", "x"), ("c", "neg", "y"), ("d", "neg", "y")],
     "only held-out groups have the label '(pos|neg)'"),
])  # fmt: skip
def test_groups_that_cannot_be_divided_are_refused(tmp_path, rows, said):
    path = csv_of(rows, tmp_path / "x.csv", ("text", "label", "author"))
    with pytest.raises(TextgenError, match=said):
        textgen.train(path, output_dir=str(tmp_path / "run"), **GROUPED)


@pytest.mark.parametrize(("options", "said"), [
    ({"group_column": "autor"}, "has no column 'autor'.*Did you mean 'author'"),
    ({"group_column": "text"}, "column 'text' cannot hold both the group and the text"),
    ({"group_column": "label"}, "column 'label' cannot hold both the group and the label"),
    ({"validation_file": "x.csv"}, "group_column and validation_file exclude each other"),
])  # fmt: skip
def test_columns_that_do_not_fit_are_named(tmp_path, options, said):
    with pytest.raises(UsageError, match=said):
        textgen.train(written(tmp_path / "x.csv"), output_dir=str(tmp_path / "run"), **{**GROUPED, **options})


def test_groups_need_a_table(tmp_path):
    for label in ("pos", "neg"):
        (tmp_path / "in" / label).mkdir(parents=True)
        (tmp_path / "in" / label / "a.txt").write_text("fine")
    with pytest.raises(UsageError, match=r"group_column goes with a table; '.*a.txt' is plain text"):
        textgen.train(tmp_path / "in", output_dir=str(tmp_path / "run"), **GROUPED)
