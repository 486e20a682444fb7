"""The model loads and writes, and its recipe names only texts that it may read."""

import csv
import json
import re
from pathlib import Path

import pytest
import textgen_base_en

import textgen

PACKAGE = Path(__file__).parents[1]
FOLDER = Path(textgen_base_en.__file__).parent / "model"
MOST_BYTES = 12.5e6
APART = {
    "Carroll": "carroll|alice.*(wonderland|adventures)|looking.glass|snark",
    "Bryant": r"bryant|stories.to.tell",
    "Blake": r"\bblake\b|songs.of.innocence",
    "Grimm": r"grimm|household.tales",
    "Shakespeare": "shakespeare",
    "Edgeworth": "edgeworth|parent.s.assistant",
    "other test texts": r"war.and.peace|moby.dick|adventures.of.sherlock|wikitext",
    "Penn Treebank": r"\bptb\b|treebank|\bwsj|switchboard|\bsw\d{4}",
}
"""Texts on which models are judged, as they would show in a title, a file name, an author or an origin."""


def sources():
    with (PACKAGE / "recipe" / "sources.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


@pytest.mark.parametrize("name", APART)
def test_texts_on_which_models_are_judged_stay_out(name):
    listed = [" ".join((row["file"], row["title"], row["author"])) for row in sources()]
    assert [each for each in listed if re.search(APART[name], each, re.IGNORECASE)] == []


def test_every_source_has_an_origin_and_a_digest():
    rows = sources()
    assert len(rows) > 150
    assert len({row["sha256"] for row in rows}) == len(rows)
    assert all(re.fullmatch("[0-9a-f]{64}", row["sha256"]) and row["origin"] and int(row["bytes"]) for row in rows)


def test_the_model_loads_by_name_and_writes_english():
    model = textgen.load(FOLDER)
    text = textgen.generate(model, "Once upon a time", max_new_tokens=40, seed=1)
    assert re.search(r"\b(the|and|a|of|to|was|he|she)\b", text)
    english = "The old man opened the door and looked out into the rain, and the dog ran before him.\n"
    assert textgen.evaluate(model, english * 2).bits_per_byte < 2.5


def test_the_package_is_small_and_its_card_names_data_and_license():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= MOST_BYTES
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert "\nlicense: mit\n" in card and "\ndatasets:\n" in card
    config = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))
    assert config["reading"] == {} and config["task"] == "lm"


def test_training_starts_from_it(tmp_path):
    notes = tmp_path / "notes.txt"
    notes.write_text("The cat sat by the fire and thought about the long winter.\n" * 80)
    options = {"max_steps": 1, "sample_steps": 0, "output_dir": str(tmp_path / "run"), "threads": 1}
    tuned = textgen.train(notes, init_from=str(FOLDER), **options)
    base = json.loads((tuned / "config.json").read_text(encoding="utf-8"))["base"]
    assert base["license"] == "mit" and "Gutenberg" in base["data"]
