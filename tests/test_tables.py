"""Laws of tables and packed files: the documents are the cells, whatever the form, the packer and the borders."""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import tempfile
import tracemalloc
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pyarrow import Table, compress, parquet

from textgen.data import sources, tables
from textgen.data.sources import SourceOptions, find_sources, read
from textgen.data.tokenizers import train_tokenizer
from textgen.errors import TextgenError, UsageError

FEW = settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])
CELLS = st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1, max_size=6)


def as_csv(cells, **how):
    file = io.StringIO(newline="")
    writer = csv.writer(file, quoting=csv.QUOTE_ALL, **how)
    writer.writerows([["id", "text"], *([k, cell] for k, cell in enumerate(cells))])
    return file.getvalue().encode()


def as_parquet(cells, **how):
    file = io.BytesIO()
    parquet.write_table(Table.from_pydict({"id": list(range(len(cells))), "text": cells}), file, **how)
    return file.getvalue()


def as_jsonl(cells, **how):
    return "".join(json.dumps({"id": k, "text": cell}, **how) + "\n" for k, cell in enumerate(cells)).encode()


FORMS = {
    "a.csv": as_csv,
    "unix.csv": lambda cells: as_csv(cells, lineterminator="\n"),
    "marked.csv": lambda cells: b"\xef\xbb\xbf" + as_csv(cells),
    "a.tsv": lambda cells: as_csv(cells, delimiter="\t"),
    "a.jsonl": as_jsonl,
    "a.NDJSON": lambda cells: as_jsonl(cells, ensure_ascii=False),
    "a.parquet": lambda cells: as_parquet(cells, row_group_size=2),
    "words.parquet": lambda cells: as_parquet(cells, use_dictionary=True, compression="zstd"),
}
PACKERS = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: compress(data, "zstd", asbytes=True),
}


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def documents(path, **options):
    found = {}
    try:
        for number, piece in read(find_sources([str(path)]), SourceOptions(**options)):
            found[number] = found.get(number, b"") + piece
    except TextgenError as error:
        assert "has no text" in str(error), error
    return [text.decode() for text in found.values()]


def refusal(path, kind=TextgenError, **options):
    with pytest.raises(TextgenError) as caught:
        list(read(find_sources([str(path)]), SourceOptions(**options)))
    assert type(caught.value) is kind
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
    return str(caught.value).replace(str(path.parent) + os.sep, "")


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("name", FORMS)
@FEW
@given(cells=CELLS, size=st.sampled_from([1, 7, 1 << 20]))
@example(cells=['say "a, b"\r\n\tand\rso\n', "", "\u2028\x85\x0b,", "'"], size=1)
def test_the_documents_are_the_cells(folder, name, packer, cells, size):
    path = folder / (name + packer)
    path.write_bytes(PACKERS[packer](FORMS[name](cells)))
    with mock.patch.object(sources, "READ_BYTES", size):
        assert documents(path) == [cell for cell in cells if cell]


@pytest.mark.parametrize("packer", PACKERS)
@FEW
@given(text=st.text(min_size=1).filter(lambda text: "\0" not in text and text[0] != "\ufeff"))
def test_a_packed_text_is_unpacked_whatever_its_name(folder, packer, text):
    path = folder / "packed"
    path.write_bytes(PACKERS[packer](text.encode()))
    assert documents(path) == [text]


@pytest.mark.parametrize(("packer", "kind"), [(".gz", "gzip"), (".bz2", "bzip2"), (".xz", "xz"), (".zst", "zstandard")])
def test_a_damaged_archive_is_refused_by_name(folder, packer, kind):
    path, whole = folder / "bad.txt", PACKERS[packer](os.urandom(3000).hex().encode())
    for broken in (whole[:-6], whole[: len(whole) // 2]):
        path.write_bytes(broken)
        assert refusal(path).startswith(f"'bad.txt' is a damaged {kind} file (")
    path.write_bytes(whole[:1000] + bytes(8) + whole[1008:])
    if packer != ".zst":  # whose writers may leave the checksum out
        assert refusal(path).startswith(f"'bad.txt' is a damaged {kind} file (")


def test_text_that_begins_like_an_archive_is_text(folder):
    path = folder / "bzh.txt"
    for text in ("BZh9 is how bzip2 begins.", "BZh", "(\u00b5", "PAR1 is parquet"):
        path.write_text(text)
        assert documents(path) == [text]


def test_tables_lie_in_folders_and_globs_beside_text(tmp_path):
    for name, write in FORMS.items():
        (tmp_path / name).write_bytes(write([name]))
    (tmp_path / "z.jsonl.gz").write_bytes(gzip.compress(as_jsonl(["packed"])))
    (tmp_path / "notes.txt").write_text("notes")
    assert sorted(documents(tmp_path)) == sorted([*FORMS, "notes", "packed"])
    assert documents(tmp_path / "*.csv") == ["a.csv", "marked.csv", "unix.csv"]


def test_which_column(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("title,text,body\na,b,c\n")
    assert documents(path) == ["b"] and documents(path, text_column="body") == ["c"]
    path.write_text("story\nOne.\nTwo.\n")
    assert documents(path) == ["One.", "Two."]
    path.write_text("title,body\na,b\n")
    assert refusal(path, UsageError) == "'a.csv' has no column 'text'; its columns are 'title', 'body'."
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 1, "story": "One."}\n\n{"id": 2, "story": null}\n{"id": 3}\n{"story": "Two."}')
    assert documents(path) == ["One.", "Two."]
    path.write_text('{"id": 1}')
    assert refusal(path, UsageError) == "'a.jsonl' has no column 'text'; its columns are 'id'."
    path = tmp_path / "a.parquet"
    parquet.write_table(Table.from_pydict({"n": [1, 2], "story": ["One.", None]}), path)
    assert documents(path) == ["One."]
    assert refusal(path, text_column="n") == "column 'n' of 'a.parquet' holds int64, not text."


def test_a_column_that_is_not_there_is_refused_with_the_nearest(tmp_path):
    for name, write in FORMS.items():
        (tmp_path / name).write_bytes(write(["x"]))
        with pytest.raises(UsageError, match=r"its columns are 'id', 'text'\. Did you mean 'text'\?"):
            list(read(find_sources([str(tmp_path / name)]), SourceOptions(text_column="texd")))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text": "b"', "line 2 of 'a.jsonl' is not JSON (Expecting ',' delimiter at char"),
        ("a.jsonl", '{"text": NaN}', "line 1 of 'a.jsonl' is not JSON (NaN is not a number)."),
        ("a.jsonl", '{"text": "a", "text": "b"}', "line 1 of 'a.jsonl' has two columns named 'text'."),
        ("a.jsonl", '\n["a"]', 'line 2 of \'a.jsonl\' is not a JSON object, such as {"text": "..."}.'),
        ("a.jsonl", '{"text": 7}', "line 1 of 'a.jsonl': column 'text' holds a number, not text."),
        ("a.jsonl", '{"text": ["a"]}', "line 1 of 'a.jsonl': column 'text' holds a list, not text."),
        ("a.jsonl", '{"text": "\\ud800"}', "line 1 of 'a.jsonl': column 'text' has half a character (U+D800)."),
        ("a.jsonl", "[" * 100_000, "line 1 of 'a.jsonl' is not JSON (nested too deeply)."),
        ("a.csv", 'text\n"a\nb', "'a.csv' is not csv at line 3, row 1 (a quotation mark is not closed)."),
        ("a.csv", 'text\na\n"b"c\n', "'a.csv' is not csv at line 3, row 2 (',' expected after '\"')."),
        ("a.csv", "n,text\n1,a\n2,b,c\n", "row 2 of 'a.csv' (ending in line 3) has 3 cells, but there are 2 columns."),
        ("a.tsv", "n\ttext\n1\n", "row 1 of 'a.tsv' (ending in line 2) has 1 cells, but there are 2 columns."),
        ("a.parquet", "PAR1 but no table", "'a.parquet' is a damaged parquet file ("),
        ("a.csv", "", "corpus 'a.csv' has no text (0 bytes)."),
        ("a.csv", "text\n", "corpus 'a.csv' has no text (0 bytes)."),
    ],
)
def test_what_is_no_table_is_refused_with_its_place(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    assert refusal(tmp_path / name).replace(f"{tmp_path}{os.sep}", "").startswith(message)


def test_bytes_that_are_not_text_are_named_with_their_offset(tmp_path):
    for name in ("a.csv", "a.jsonl"):
        (tmp_path / name).write_bytes(b'{"text": "a\xff"}')
        assert refusal(tmp_path / name) == f"{name!r} is not UTF-8 text (byte 0xff at offset 11)."
    (tmp_path / "a.csv").write_bytes("text\né\n".encode("cp1252"))
    assert documents(tmp_path / "a.csv", encoding="cp1252") == ["é"]


def test_a_separator_divides_within_a_cell_too(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(["a<|>b", "c", "<|>d"]))
    assert documents(tmp_path / "a.jsonl", document_separator="<|>") == ["a", "b", "c", "d"]


def test_endless_lines_and_open_quotes_do_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "CELL_BYTES", 1 << 16)
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(["x" * (1 << 17)]))
    assert "is longer than" in refusal(tmp_path / "a.jsonl")
    (tmp_path / "a.csv").write_bytes(as_csv(["x" * (1 << 18)]))
    assert "has a line of more than" in refusal(tmp_path / "a.csv")
    csv.field_size_limit(1 << 16)
    (tmp_path / "a.csv").write_text('text\n"' + "x\n" * (1 << 17))
    assert "field larger than" in refusal(tmp_path / "a.csv")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_large_table_takes_little_memory(tmp_path, name):
    (tmp_path / name).write_bytes(FORMS[name](["some words that go on and on, " * 300] * 3000))
    tracemalloc.start()
    size = sum(len(piece) for _, piece in read(find_sources([str(tmp_path / name)]), SourceOptions()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size == 3000 * 9000 and peak < 12 << 20


STORIES = ["Once “upon” a time,\nthere was a fox.\n", 'It said "no", twice.\n\nThe end.\n', "A café – at night.\n"]


def test_ten_forms_of_one_text_give_the_same_documents_and_tokens(tmp_path):
    joined = "<|end|>\n".join(STORIES)
    plain = {
        "utf8.txt": (joined.encode(), None, "\n"),
        "utf8-bom.crlf.txt": (b"\xef\xbb\xbf" + joined.replace("\n", "\r\n").encode(), None, "\r\n"),
        "utf16le-bom.txt": (b"\xff\xfe" + joined.encode("utf-16-le"), None, "\n"),
        "utf16be-bom.txt": (b"\xfe\xff" + joined.encode("utf-16-be"), None, "\n"),
        "cp1252.crlf.txt": (joined.replace("\n", "\r\n").encode("cp1252"), "cp1252", "\r\n"),
        "cr.txt": (joined.replace("\n", "\r").encode(), None, "\r"),
        "oneline.txt": (joined.replace("\n", " ").encode(), None, " "),
    }
    forms = {}
    for name, (data, encoding, end) in plain.items():
        (tmp_path / name).write_bytes(data)
        found = documents(tmp_path / name, encoding=encoding, document_separator="<|end|>")
        forms[name] = [text.lstrip(" ").replace(end, "\n") if end == " " else text.replace(end, "\n") for text in found]
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        (tmp_path / name).write_bytes(FORMS[name](STORIES))
        forms[name] = documents(tmp_path / name)
    one_line = [text.replace("\n", " ") for text in forms.pop("oneline.txt")]
    assert one_line == [text.replace("\n", " ") for text in STORIES]
    assert len(forms) == 9 and all(found == STORIES for found in forms.values())
    tokenizer = train_tokenizer("char", [[text.encode()] for text in STORIES])
    ids = {name: [tokenizer.encode(text).tolist() for text in found] for name, found in forms.items()}
    assert all(found == ids["utf8.txt"] for found in ids.values())


@pytest.mark.data
def test_ten_real_forms_of_one_text(data_folder):
    formats = data_folder / "formats"
    stories = documents(formats / "stories.jsonl")
    assert len(stories) == 317
    assert documents(formats / "stories.csv") == documents(formats / "stories.parquet") == stories
    text = "\n\n".join(stories) + "\n"
    tokenizer = train_tokenizer("bpe", [[text.encode()]], 1000)
    ids = tokenizer.encode(text).tolist()
    for name, end, encoding in (
        ("utf8", "\n", None),
        ("utf8-bom.crlf", "\r\n", None),
        ("utf16le-bom", "\n", None),
        ("utf16be-bom", "\n", None),
        ("cp1252.crlf", "\r\n", "cp1252"),
        ("cr", "\r", None),
    ):
        (found,) = documents(formats / f"stories.{name}.txt", encoding=encoding)
        assert found == text.replace("\n", end)
        assert tokenizer.encode(found.replace(end, "\n")).tolist() == ids
    (found,) = documents(formats / "stories.oneline.txt")
    assert found.split() == text.split() and not {"\n", "\r"} & set(found)
