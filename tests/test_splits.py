"""What is held out: whole documents of many, the end of each of a few, the end of a single one; and what is said."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from terminal import run

from textgen.data import CorpusOptions
from textgen.data.corpus import scan_corpus, tokenize
from textgen.data.recipes import TRAIN, VALIDATION
from textgen.data.splits import FEWEST, TAIL, TAILS, WHOLE, Split, WholeDocuments, choose_split, settle
from textgen.storage import read_manifest

TINY = ["--max-steps", 2, "--hidden-size", 8, "--threads", 1, "--sample-steps", 0, "--tokenizer", "char"]
PARAGRAPH = "a line of text\nand another one\nthat ends here.\n\n"


def cut_up(documents, size):
    return [(number, text[start : start + size]) for number, text in enumerate(documents)
            for start in range(0, len(text), size)]  # fmt: skip


def divided(split, documents, size=5):
    """The parts of each document that are trained on and held out."""
    parts = {TRAIN: {}, VALIDATION: {}}
    for part, number, chunk in split.divide(cut_up(documents, size)):
        parts[part][number] = parts[part].get(number, b"") + chunk
    return parts[TRAIN], parts[VALIDATION]


@pytest.mark.parametrize("text", ["x" * 999, "é" * 500, PARAGRAPH * 20])
@pytest.mark.parametrize("share", [0.1, 0.25])
def test_a_single_document_is_cut_at_the_byte(text, share):
    data = text.encode()
    split = choose_split([len(data)], share, 1)
    assert split == Split(TAIL, {0: int(len(data) * (1 - share))})
    assert settle(split, [len(data)], iter([])) == split  # published results depend on it


def test_of_many_documents_whole_ones_are_held_out():
    split = choose_split([100] * 60, 0.1, 1)
    assert split.kind == WHOLE and len(split.cuts) == 6 and set(split.cuts.values()) == {0}
    assert split != choose_split([100] * 60, 0.1, 2) and split == choose_split([100] * 60, 0.1, 1)
    assert choose_split([100] * 60, 0, 1) == Split()


@pytest.mark.parametrize(
    "sizes, share",
    [([900] * 20, 0.1), ([900] * (10 * FEWEST - 5), 0.1), ([900] * 6, 0.5), ([60, 60, 5000, 60], 0.1)],
)
def test_of_few_documents_the_end_of_each_is_held_out(sizes, share):
    split = choose_split(sizes, share, 1)
    assert split.kind == TAILS and split.cuts == {number: int(size * (1 - share)) for number, size in enumerate(sizes)}
    assert split == choose_split(sizes, share, 2)


def test_lines_stay_whole_however_few_there_are():
    for number in (2, 3, 20):
        split = choose_split([30] * number, 0.1, 1, whole=True)
        assert split.kind == WHOLE and 1 <= len(split.cuts) < number and set(split.cuts.values()) == {0}


def test_documents_too_short_to_be_cut_are_held_out_whole():
    split = choose_split([1, 1, 1], 0.1, 1)
    assert split.kind == WHOLE and list(split.cuts.values()) == [0]
    split = choose_split([40] * 20, 0.1, 1)
    assert split.kind == WHOLE and list(split.cuts.values()) == [0, 0]
    assert 1 not in choose_split([500, 2, 500], 0.1, 1).cuts


def ends(text, share=0.1, copies=3):
    """What is held out of one of several copies of a text."""
    documents = [text] * copies
    sizes = [len(text)] * copies
    split = settle(choose_split(sizes, share, 1), sizes, cut_up(documents, 7))
    train, held = divided(split, documents)
    assert all(train[k] + held[k] == text for k in range(copies))
    return held[0]


def test_ends_begin_after_a_paragraph_else_a_line_else_a_character():
    text = PARAGRAPH.encode()
    assert ends(text * 40) == text * 4
    assert ends(text * 40 + b"some words") == text * 4 + b"some words"
    assert ends(text.replace(b"\n", b"\r\n") * 40).startswith(b"a line")
    assert ends(b"word word word word\n" * 50) == b"word word word word\n" * 5
    assert ends(b"word word word word\r\n" * 50) == b"word word word word\r\n" * 5
    assert ends(b"x" * 1000 + b"\n") == b"x" * 100 + b"\n"
    assert ends("é".encode() * 505) == "é".encode() * 50
    assert ends(b"a" * 900 + b"\n\n" + b"b" * 80).startswith(b"bb")
    assert ends(b"a" * 870 + b"\n\n" + b"b" * 15 + b"\n" + b"c" * 90).startswith(b"bb")  # rather than the line near
    assert ends(b"a" * 970 + b"\n\n" + b"b" * 28).startswith(b"a")  # too far


def test_the_place_of_a_cut_does_not_depend_on_the_chunks():
    documents = [b"one line\r\nanother\r\n\r\n" * 30, b"x" * 70, b"y\n" * 400]
    sizes = [len(text) for text in documents]
    split = choose_split(sizes, 0.1, 1)
    found = {str(settle(split, sizes, cut_up(documents, size)).cuts) for size in (1, 2, 3, 17, 10_000)}
    assert len(found) == 1


@settings(deadline=None)
@given(
    documents=st.lists(st.text(st.sampled_from("aé \n\r"), min_size=1), min_size=1, max_size=7),
    share=st.sampled_from([0.1, 0.3, 0.9]),
    size=st.integers(1, 9),
)
@example(documents=["\n\n\n\n\n\n\n\n", "a\r\n\r\n\r\nb"], share=0.3, size=1)
def test_nothing_is_lost_and_no_document_is_missing(documents, share, size):
    data = [text.encode() for text in documents]
    sizes = list(map(len, data))
    split = settle(choose_split(sizes, share, 1), sizes, cut_up(data, 1000))
    whole = [(number, text) for number, text in enumerate(data)]
    train, held = {}, {}
    for part, number, chunk in split.divide(whole):
        (train if part == TRAIN else held)[number] = chunk
        assert chunk.decode()
    assert [train.get(k, b"") + held.get(k, b"") for k in range(len(data))] == data
    assert train
    if split.kind == TAILS:
        assert set(train) == set(range(len(data)))


@pytest.fixture
def desk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def notes(number, folder="notes"):
    for k in range(number):
        path = Path(folder, f"part {k % 2}", f"note{k:02}.txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"note {k}\n" + PARAGRAPH * 6)


def said(*arguments):
    ended = run("train", *arguments, *TINY, "--dry-run")
    assert ended.code == 0, ended.err
    return next(line for line in ended.err.splitlines() if line.startswith("corpus ")).rpartition("held out: ")[2]


def test_the_plan_names_what_is_held_out(desk):
    notes(80)
    notes(9, "few")
    Path("one.txt").write_text(PARAGRAPH * 40)
    Path("titles.txt").write_text("".join(f"Title {'a very ' * (n % 9)}{n}\n" for n in range(200)))
    Path("table.csv").write_text("text\n" + "".join(f"row {n}\n" for n in range(200)))
    first, second = sorted(manifest_of("notes")["held_out"]["names"])[:2]
    assert said("notes") == f"{first}, {second} and 6 more"
    assert said("few") == "the last 11 % of each document"
    assert said("one.txt") == "the last 10 %"
    assert said("titles.txt") == "20 lines"
    assert said("table.csv") == "19 documents"
    assert said("one.txt", "--validation-split", 0) == "nothing"
    assert said("one.txt", "--validation-file", "few/part 0/note00.txt") == "note00.txt"


def manifest_of(*paths, **options):
    corpus = scan_corpus([str(path) for path in paths], CorpusOptions(tokenizer="char", **options), 1337)
    store = tokenize(corpus, Path("store"), replace_folder=Path("store").exists())
    return read_manifest(store.folder)


def test_names_are_recorded_and_do_not_depend_on_the_folder(desk, monkeypatch):
    notes(60)
    Path("notes/part 0/blank.txt").write_text("")  # no document
    about = manifest_of("notes")
    names = about["held_out"]["names"]
    assert about["held_out"]["kind"] == WHOLE and len(names) == about["documents"][VALIDATION] >= FEWEST
    store = scan_corpus(["notes"], CorpusOptions(tokenizer="char"), 1337)
    texts = dict(store.documents()).keys()
    assert set(texts) == {TRAIN, VALIDATION}
    for name in names:
        assert Path("notes", name).is_file()
    held = [
        path.read_bytes() for path in sorted(Path("notes").rglob("*.txt")) if str(path.relative_to("notes")) in names
    ]
    found = b"".join(chunk for part, _, chunk in store.parts() if part == VALIDATION)
    assert found == b"".join(held)
    key = store.key()
    assert scan_corpus([str(desk / "notes")], CorpusOptions(tokenizer="char"), 1337).key() == key
    Path("notes").rename("others")
    assert scan_corpus(["others"], CorpusOptions(tokenizer="char"), 1337).key() == key
    Path("others", names[0]).rename(Path("others", names[0]).with_suffix(".md"))
    assert scan_corpus(["others"], CorpusOptions(tokenizer="char"), 1337).key() != key


def test_every_note_is_in_both_parts(desk):
    notes(9)
    ended = run("train", "notes", *TINY, "--output-dir", "run")
    assert ended.code == 0, ended.err
    manifest = next(Path(".tokens").glob("*/manifest.json"))
    about = json.loads(manifest.read_text())
    assert about["documents"] == {TRAIN: 9, VALIDATION: 9} and about["corpus_documents"] == 9
    assert about["held_out"] == {"kind": TAILS, "names": []}
    assert run("evaluate", "-m", "run").code == 0
    assert run("train", "--resume", "run", "--max-steps", 4).code == 0


def test_whole_documents_are_cuts_at_zero():
    cuts = WholeDocuments([7, 2, 5])
    assert cuts == {2: 0, 5: 0, 7: 0} and 5 in cuts and 6 not in cuts and cuts.get(6) is None
