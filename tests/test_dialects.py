"""Laws of tables in every format: the same table gives the same columns, texts, labels and numbers, and what can be
read in two ways is refused, never guessed. Inputs in `cases/` are ones that were once read wrongly."""

import csv
import io
import json
import math
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

import textgen
from textgen.cli import group
from textgen.data import text_tables
from textgen.data.sources import SourceOptions, find_sources, read, table_form
from textgen.data.tables import COMMA, POINT, read_number
from textgen.data.text_tables import delimiter_of, json_form
from textgen.errors import TextgenError, TextgenNote, TextgenWarning, UsageError
from textgen.options import as_flags, from_mapping, spelled_as
from textgen.tasks import options_for
from textgen.tasks.classification.reading import find_labelled, read_labelled, read_texts
from textgen.tasks.completion.reading import read_pairs
from textgen.tasks.forecasting.data import SeriesData
from textgen.tasks.forecasting.options import ForecastingOptions
from textgen.tasks.forecasting.reading import read_series

CASES = Path(__file__).parent / "cases"
FEW = settings(deadline=None, max_examples=10, suppress_health_check=list(HealthCheck))
DELIMITED = {f"{name}{ending}": mark for name, mark in {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|"}.items()
             for ending in (".csv", ".tsv")}  # fmt: skip
FORMS = [*DELIMITED, "a.jsonl", "a.json", "lines.json", "a.parquet"]
ENCODINGS = [None, "utf-8", "utf-8-sig", "utf-16", "latin-1"]


def written(path, rows, encoding=None, **how):
    """A table of rows (each a dict) in the format that the name says."""
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    if path.name in DELIMITED:
        file = io.StringIO(newline="")
        writer = csv.writer(file, delimiter=DELIMITED[path.name], **how)
        writer.writerows([list(rows[0]), *([row[column] for column in rows[0]] for row in rows)])
        text = file.getvalue()
    elif path.name == "a.json":
        text = json.dumps(rows, indent=how.get("indent"), ensure_ascii=False)
    else:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(text.encode(encoding or "utf-8"))
    return path


def documents(path, **options):
    found = {}
    for number, piece in read(find_sources([str(path)]), SourceOptions(**options)):
        found[number] = found.get(number, b"") + piece
    return [text.decode() for text in found.values()]


def labelled(path, **options):
    rows = read_labelled(find_labelled([str(path)], None), SourceOptions(**options))
    return [(b"".join(row.chunks).decode(), row.label) for row in rows]


def series(path, delimiter=None, **options):
    reading = SourceOptions(delimiter=delimiter)
    return read_series(find_sources([str(path)]), from_mapping(ForecastingOptions, options), reading).series


def values(path, **options):
    return [each.values.tolist() for each in series(path, **options)]


def refusal(call, kind=TextgenError):
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    return caught.value


def notices(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    assert all(issubclass(each.category, TextgenWarning) for each in caught)
    return [str(each.message) for each in caught]


def run(*arguments):
    return CliRunner().invoke(group, [str(each) for each in arguments], catch_exceptions=True)


# --- the same table in every format ---


def characters(encoding):
    whole = st.characters(exclude_characters="\0\ufeff", exclude_categories=["Cs"])
    return st.characters(max_codepoint=255, exclude_characters="\0") if encoding == "latin-1" else whole


def same_texts_and_labels(folder, form, encoding, rows, quoting):
    typed = None if encoding in (None, "utf-8-sig") else encoding
    path = written(folder / form, rows, encoding, **({"quoting": quoting} if form in DELIMITED else {}))
    reference = written(folder / "a.parquet", rows)
    found = labelled(path, encoding=typed)
    assert found == labelled(reference)
    assert [text for text, _ in found] == [row["text"] for row in rows]


@pytest.mark.parametrize("form", FORMS)
@FEW
@given(
    data=st.data(),
    encoding=st.sampled_from(ENCODINGS),
    labels=st.sampled_from(
        [
            st.text(st.characters(categories=["L"]), min_size=1, max_size=8),
            st.integers(-(2**53), 2**53),
            st.floats(allow_nan=False, allow_infinity=False),
            st.floats(-100, 100).map(round).map(float),
            st.booleans(),
        ]
    ),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
)
def test_every_format_gives_the_same_texts_and_labels(tmp_path_factory, form, data, encoding, labels, quoting):
    folder = tmp_path_factory.mktemp("same")
    texts = st.text(characters(encoding), min_size=1, max_size=12).filter(str.strip)
    fewest = 2 if form == "lines.json" else 1
    rows = data.draw(st.lists(st.fixed_dictionaries({"text": texts, "label": labels}), min_size=fewest, max_size=5))
    if encoding == "latin-1":
        assume(str(rows).isascii() or all(ord(c) < 256 for row in rows for c in f"{row['text']}{row['label']}"))
    same_texts_and_labels(folder, form, encoding, rows, quoting)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([True, False], ["true", "false"]),
        ([1.0, 2.0], ["1", "2"]),
        ([-0.5, -0.0, 1e20], ["-0.5", "0", "1e+20"]),
        (["007", "1.50"], ["007", "1.50"]),
        (["TRUE", " False "], ["true", "false"]),
        (["True story", "1.0.0"], ["True story", "1.0.0"]),
    ],
)
def test_labels_have_one_name_in_every_format(tmp_path, form, values, labels):
    path = written(tmp_path / form, [{"text": "words", "label": value} for value in values])
    assert [label for _, label in labelled(path)] == labels


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_short_floats_have_the_names_that_csv_gives_them(tmp_path, kind):
    column = pyarrow.array(np.array([0.5, 0.1, 3], kind))
    parquet.write_table(pyarrow.table({"text": ["a", "b", "c"], "label": column, "y": column}), tmp_path / "a.parquet")
    assert (
        [label for _, label in labelled(tmp_path / "a.parquet")] == ["0.5", "0.1", "3"] if kind == "float32" else True
    )
    assert values(tmp_path / "a.parquet", target_column=["y"])[0][1] == float(str(np.array(0.1, kind)))


def test_the_text_that_a_label_table_means_is_the_column_with_text(tmp_path):
    (tmp_path / "x.csv").write_text("id,review,label\n1,good,1.0\n2,bad,0.0\n")
    assert labelled(tmp_path / "x.csv") == [("good", "1"), ("bad", "0")]
    assert notices(lambda: labelled(tmp_path / "x.csv"))[0].startswith("'review' is the only column")
    (tmp_path / "x.csv").write_text("code,label\n0049,a\n0033,b\n")
    assert labelled(tmp_path / "x.csv") == [("0049", "a"), ("0033", "b")]
    unlabelled = read_texts(find_sources([str(tmp_path / "x.csv")]), SourceOptions())
    assert [b"".join(row.chunks) for row in unlabelled] == [b"0049", b"0033"]


def test_a_model_of_one_format_knows_the_labels_of_another(tmp_path):
    rows = [{"text": f"words {k}", "label": bool(k % 2)} for k in range(20)]
    table = written(tmp_path / "comma.csv", rows)
    sizes = {"max_steps": 2, "hidden_size": 4, "threads": 1, "output_dir": str(tmp_path / "run")}
    folder = textgen.train(table, task="classify", **sizes)
    model = textgen.load(folder)
    assert model.labels == ("false", "true")
    for form in ("a.parquet", "a.jsonl", "semicolon.csv"):
        origins = find_labelled([str(written(tmp_path / form, rows))], None)
        assert model.metrics(read_labelled(origins, SourceOptions())).texts == 20


def grouped(number, decimals, mark, group):
    whole, _, part = f"{number:,.{decimals}f}".partition(".")
    return whole.replace(",", group) + (mark + part if part else "")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("mark", "groups"), [(POINT, ["", ",", " ", "'"]), (COMMA, ["", ".", "\u00a0", "\u2019"])])
@FEW
@given(data=st.data(), decimals=st.integers(0, 5))
def test_numbers_are_read_as_written_or_the_error_names_the_option(
    tmp_path_factory, form, mark, groups, data, decimals
):
    folder, group = tmp_path_factory.mktemp("numbers"), data.draw(st.sampled_from(groups))
    numbers = data.draw(st.lists(st.floats(-1e7, 1e7), min_size=2, max_size=6))
    cells = [grouped(number, decimals, mark, group) for number in numbers]
    wanted = [float(f"{number:.{decimals}f}") for number in numbers]
    path = written(folder / form, [{"n": str(k), "y": cell} for k, cell in enumerate(cells)])
    assert values(path, target_column=["y"], decimal=mark) == [wanted]
    likely = mark == POINT or form.startswith("semicolon")  # elsewhere 1.234 alone is taken for a decimal point
    assume(likely or any(read_number(cell, POINT) is None for cell in cells))
    try:
        assert values(path, target_column=["y"]) == [wanted]
    except TextgenError as error:
        assert error.hint.startswith("--decimal")


# --- what is between columns ---

TABLES = {
    "a;text\n1;x, y\n2;z\n": ("semicolon", ["x, y", "z"]),
    "a\ttext\n1\tx, y; z\n": ("tab", ["x, y; z"]),
    "a|text|b\n1|x|2\n3|y|4\n": ("bar", ["x", "y"]),
    'a;text\n1;"x;\ny"\n2;z\n': ("semicolon", ["x;\ny", "z"]),
    "sep=;\na;text\n1;x\n": (None, ["x"]),
    '"sep=|"\r\na|text\r\n1|x\r\n': (None, ["x"]),
    "sep=\t\r\na,b\ttext\r\n1\tx\r\n": (None, ["x"]),
    "a , text \n1,x\n": (None, ["x"]),
    " text ;a\nx;1\n": ("semicolon", ["x"]),
    "text\nx; y\nz\n": (None, ["x; y", "z"]),
    "text\nx, y\n": ("ragged", None),
    'text\n"x | y; z"\n': (None, ["x | y; z"]),
    "a,text\n1,x;y\n2,z\n": (None, ["x;y", "z"]),
    "a;text\n": ("semicolon", []),
    "sep=x,text\nsep=a,y\n": (None, ["y"]),
    "": (None, []),
}


@pytest.mark.parametrize("content", TABLES)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_what_divides_columns_is_detected(tmp_path, content, mark):
    note, texts = TABLES[content]
    path = tmp_path / "x.csv"
    path.write_bytes(mark + content.encode())
    if note == "ragged":
        assert "row 1 of" in str(refusal(lambda: documents(path)))
    elif not texts:
        assert "has no text" in str(refusal(lambda: documents(path)))
    else:
        assert documents(path) == texts
        said = {"semicolon": "';'", "tab": "tabs", "bar": "'|'", None: None}[note]
        expected = [f"{str(path)!r} is read with {said} as the delimiter."] if said else []
        assert notices(lambda: documents(path)) == expected


@pytest.mark.parametrize("content", ["a,text\n1,x\n2,y z\n", "a;text\n1;x\n", "a|text\n1|x\n"])
def test_a_tsv_file_may_have_other_signs_than_tabs(tmp_path, content):
    (tmp_path / "x.tsv").write_text(content)
    assert documents(tmp_path / "x.tsv")[0] == "x"


def test_two_ways_to_divide_columns_are_refused_with_the_option(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("a;text,b\n1;2,3\n")
    error = refusal(lambda: documents(path), UsageError)
    assert "2 columns with ',' or 2 columns with ';'" in str(error) and "--delimiter ';'" in error.hint
    assert documents(path, delimiter=";", text_column="a") == ["1"] and documents(path, delimiter=",", text_column="b")
    path.write_text("a;text\nx;y;z\nu\nv;w;x\n")
    error = refusal(lambda: documents(path), UsageError)
    assert "';' gives 2 columns in the first line, but 3 in row 1." in str(error) and "--delimiter" in error.hint
    path.write_text('a;text\n1;"x" y\n')
    assert "is not csv at line 2, row 1 (';' expected after" in str(refusal(lambda: documents(path)))
    path.write_text("a;text\n1;x\n2;y\n3;y;z\n4;u\n")
    assert "row 3 of" in str(refusal(lambda: documents(path))) and "3 cells" in str(refusal(lambda: documents(path)))


@pytest.mark.parametrize(("typed", "mark"), [("\\t", "\t"), ("tab", "\t"), (";", ";"), ("^", "^"), ("\t", "\t")])
def test_a_delimiter_is_one_character(tmp_path, typed, mark):
    assert delimiter_of(typed) == mark
    (tmp_path / "x.csv").write_text(f"a{mark}text\n1{mark}x,y\n")
    assert documents(tmp_path / "x.csv", delimiter=typed) == ["x,y"]


@pytest.mark.parametrize("typed", ["", "ab", '"', "a", "\n", " ", "\\n"])
def test_what_is_no_delimiter_is_refused(typed):
    assert "--delimiter must be one character" in str(refusal(lambda: SourceOptions(delimiter=typed), UsageError))


def test_only_the_head_is_looked_at_and_later_rows_keep_their_place(tmp_path, monkeypatch):
    monkeypatch.setattr(text_tables, "HEAD_LINES", 5)
    path = tmp_path / "x.csv"
    path.write_text("a;text\n" + "1;x\n" * 20 + "1;x;y\n")
    assert "row 21 of" in str(refusal(lambda: documents(path))) and "(ending in line 22)" in str(
        refusal(lambda: documents(path))
    )
    path.write_text("sep=;\na;text\n" + '1;"x\ny"\n' * 20)
    assert documents(path) == ["x\ny"] * 20


# --- headers ---


@pytest.mark.parametrize("form", ["comma.csv", "semicolon.csv", "tab.tsv", "a.jsonl", "a.json", "a.parquet"])
@pytest.mark.parametrize("spelling", ["text", " text"])
def test_two_columns_of_one_name_are_refused_in_every_format(tmp_path, form, spelling):
    path = tmp_path / form
    if form == "a.parquet":
        cells = [pyarrow.array(["a"]), pyarrow.array(["b"])]
        parquet.write_table(pyarrow.Table.from_arrays(cells, ["text", spelling]), path)
    elif form in DELIMITED:
        path.write_text(DELIMITED[form].join(["text", spelling]) + "\n" + DELIMITED[form].join("ab") + "\n")
    else:
        row = f'{{"text": "a", "{spelling}": "b"}}'
        path.write_text(f"[{row}]" if form == "a.json" else row)
    for read_it in (documents, labelled, lambda path: series(path, target_column=["text"]), pairs_of):
        assert "two columns named 'text'" in str(refusal(lambda read_it=read_it: read_it(path)))


def pairs_of(path):
    return list(read_pairs(find_sources([str(path)]), ("text", "label"), SourceOptions()))


@pytest.mark.parametrize(
    ("content", "read_with"),
    [
        (",date,y\n0,2020-01-01,5\n1,2020-01-02,6\n", {}),
        ("Unnamed: 0,date,y\n7,2020-01-01,5\n9,2020-01-02,6\n", {}),
        ("date,y,\n2020-01-01,5,\n2020-01-02,6,\n", {}),
        (",y\n2020-01-01,5\n2020-01-02,6\n", {}),
        (",date,y\n0,2020-01-01,5\n1,2020-01-02,6\n", {"target_column": ["all"]}),
    ],
)
def test_a_column_without_a_name_is_an_index_or_holds_the_times(tmp_path, content, read_with):
    (tmp_path / "x.csv").write_text(content)
    (found,) = series(tmp_path / "x.csv", **read_with)
    assert found.name == "y" and found.values.tolist() == [5, 6] and found.start > 10_000
    said = notices(lambda: series(tmp_path / "x.csv", **read_with))
    assert said == ([] if content.startswith(",y") else [said[0]]) and all("has no name" in each for each in said)


def test_an_index_of_pandas_in_parquet_and_json_is_left_out(tmp_path):
    table = pyarrow.table({"__index_level_0__": [0, 1], "y": [5.0, 6.0]})
    parquet.write_table(table, tmp_path / "x.parquet")
    (tmp_path / "x.jsonl").write_text('{"": 0, "y": 5}\n{"": 1, "y": 6}\n')
    assert values(tmp_path / "x.parquet") == values(tmp_path / "x.jsonl") == [[5, 6]]


def test_the_only_column_of_a_file_without_names_is_reported():
    path = CASES / "headerless_one.csv"
    said = notices(lambda: documents(path))
    assert len(said) == 1 and "first row" in said[0] and "'Old finds the light and finds bread river. awful'" in said[0]
    assert notices(lambda: list(read_texts(find_sources([str(path)]), SourceOptions()))) == said
    assert len(documents(path)) == len(path.read_text().splitlines()) - 1


@pytest.mark.parametrize("first", ["Anna", "good film", "What did you like?", "12 eggs", "Ja."])
def test_a_first_row_that_may_be_a_text_is_reported(tmp_path, first):
    (tmp_path / "x.csv").write_text(f"{first}\nOne text\nAnother text\n")
    assert repr(first) in notices(lambda: documents(tmp_path / "x.csv"))[0]
    (tmp_path / "x.csv").write_text("Story\nOne text\nAnother text\n")
    assert notices(lambda: documents(tmp_path / "x.csv")) == []


@pytest.mark.parametrize("content", ["12.5\n13\n", "2020-01-01,12.5\n2020-01-02,13\n", "1;2.5\n2;3.5\n", "0\n1\n"])
def test_numbers_without_names_of_columns_are_refused(tmp_path, content):
    (tmp_path / "x.csv").write_text(content)
    error = refusal(lambda: series(tmp_path / "x.csv"), UsageError)
    assert "has no column names" in str(error) and "add a first line" in error.hint


# --- JSON ---


def test_the_column_is_chosen_by_all_rows():
    error = refusal(lambda: documents(CASES / "first_null.jsonl"), UsageError)
    assert "its columns are 'title', 'body'" in str(error) and "--text-column" in error.hint
    assert len(documents(CASES / "first_null.jsonl", text_column="body")) == 120


@pytest.mark.parametrize(
    ("rows", "texts"),
    [
        (['{"n": 1}', '{"n": 2, "body": "x"}'], ["x"]),
        (['{"body": null}', '{"body": "x"}'], ["x"]),
        (['{"a": "x"}', '{"text": "y"}'], ["y"]),
        (['{"a": null, "b": 1}', '{"b": 2}', '{"b": 3, "a": "x"}'], ["x"]),
        (["{}", '{"text": "x"}'], ["x"]),
    ],
)
@pytest.mark.parametrize("form", ["x.jsonl", "x.json"])
def test_columns_are_those_of_all_rows(tmp_path, form, rows, texts):
    path = tmp_path / form
    path.write_text("\n".join(rows) if form == "x.jsonl" else f"[{', '.join(rows)}]")
    assert documents(path) == texts


def test_rows_without_the_column_are_counted():
    (said,) = notices(lambda: documents(CASES / "later_other_key.jsonl"))
    assert said.startswith("117 of 120 rows of") and said.endswith("have no 'text' column; they have 'Text'.")
    (said,) = notices(lambda: documents(CASES / "later_other_key.jsonl", text_column="Text"))
    assert said.startswith("3 of 120 rows of")


def test_rows_without_a_number_are_counted(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"y": 1}\n{"y": 2}\n{"Y": 3}\n{"y": 4}\n')
    assert values(path, target_column=["y"]) == [[1, 2, 2, 4]]
    (said,) = notices(lambda: series(path, target_column=["y"]))
    assert "1 of 4 rows of" in said and "have no 'y' column; they have 'Y'." in said


def test_an_array_of_objects_is_a_table(tmp_path):
    rows = json.loads((CASES / "array.json").read_text())
    assert documents(CASES / "array.json") == [row["text"] for row in rows]
    assert labelled(CASES / "array.json") == [(row["text"], row["label"]) for row in rows]
    (tmp_path / "x.json.gz").write_bytes(__import__("gzip").compress((CASES / "array.json").read_bytes()))
    assert len(documents(tmp_path / "x.json.gz")) == len(rows)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_an_array_may_have_any_encoding(tmp_path, encoding):
    (tmp_path / "x.json").write_bytes('  [\n{"text": "\u00e9\u2028"}]'.encode(encoding))
    assert documents(tmp_path / "x.json", encoding=encoding) == ["\u00e9\u2028"]
    (tmp_path / "x.json").write_bytes('{"text": "\u0431\u2200"}\n{"text": "\u0100"}'.encode(encoding))
    assert documents(tmp_path / "x.json", encoding=encoding) == ["\u0431\u2200", "\u0100"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"text": "a"}', "is not JSON: the file ends after row 1"),
        ('[{"text": "a"} {"text": "b"}]', "is not JSON: '{' follows row 1"),
        ('[{"text": "a"}, 7]', "row 2 of 'x.json' is not a JSON object"),
        ('[{"text": "a"}, {"text": }]', "row 2 of 'x.json' is not JSON"),
        ('[{"text": "a"},]', "row 2 of 'x.json' is not JSON"),
        ('[{"text": "a"}] x', "'x' follows the end of the array"),
        ('[{"text": "a", "n": NaN}]', "row 1 of 'x.json' is not JSON (NaN is not a number)"),
        ('[{"text": "a", "text": "b"}]', "row 1 of 'x.json' has two columns named 'text'"),
        ("[]", "has no text"),
    ],
)
def test_an_array_that_is_damaged_is_refused_by_row(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    Path("x.json").write_text(content)
    assert message in str(refusal(lambda: documents("x.json")))


@pytest.mark.parametrize(
    ("content", "form"),
    [
        ('{"a": 1}', ""), ('{\n"a": 1\n}', ""), ("[1, 2]", ""), ("text", ""), ("", ""), ("[[1]]", ""), ("[]", "json"),
        ('[\n  {"a": 1}]', "json"), ('{"a": 1}\n{"a": 2}', "jsonl"), ('{"a": 1}\n\n  {"a": 2}\n', "jsonl"),
        ('{"a": 1}\nx', ""),
    ],
)  # fmt: skip
def test_only_some_json_files_are_tables(tmp_path, content, form):
    assert json_form(content.encode()) == form
    (tmp_path / "x.json").write_text(content)
    assert table_form(find_sources([str(tmp_path / "x.json")])[0]) == form
    if not form and content:
        assert documents(tmp_path / "x.json") == [content]
        assert "is not a table" in str(refusal(lambda: series(tmp_path / "x.json")))


@pytest.mark.parametrize("form", ["a.json", "a.jsonl"])
def test_json_takes_little_memory(tmp_path, form):
    path = written(tmp_path / form, [{"text": "some words that go on, " * 400}] * 2000)
    tracemalloc.start()
    size = sum(len(piece) for _, piece in read(find_sources([str(path)]), SourceOptions()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size == 2000 * 9200 and peak < 12 << 20


def test_a_table_of_endless_columns_is_refused(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps({"text": "x", f"column {k}": k}) + "\n" for k in range(10_001)))
    assert "more than 10,000 different columns" in str(refusal(lambda: documents(path)))


def test_a_file_that_changes_is_read_anew(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "a"}')
    assert documents(path) == ["a"]
    path.write_text('{"story": "bc"}')
    assert documents(path) == ["bc"]


# --- tables beside texts ---


def test_tables_without_text_are_left_out_of_a_folder_and_named(tmp_path):
    (tmp_path / "a.txt").write_text("words")
    (tmp_path / "numbers.csv").write_text("date,y\n2020-01-01,5\n")
    (tmp_path / "one.csv").write_text("y\n5\n6\n")
    (tmp_path / "stores.csv").write_text("store\nA\nB\n")
    (tmp_path / "rows.json").write_text('[{"y": 5}]')
    (tmp_path / "config.json").write_text('{"y": 5}')
    (tmp_path / "more.csv").write_text("id,text\n1,more words\n")
    assert documents(tmp_path) == ["words", "more words"]
    said = notices(lambda: documents(tmp_path))
    assert [name in each and "is skipped" in each for name, each in zip(
        ("numbers.csv", "one.csv", "rows.json", "stores.csv"), said, strict=True
    )] == [True] * 4  # fmt: skip
    assert documents(tmp_path / "*.csv") == ["more words", "A", "B"]


def test_a_folder_of_tables_is_read_like_its_tables(tmp_path):
    (tmp_path / "a.csv").write_text("id,story\n1,One\n")
    (tmp_path / "b.csv").write_text("y\n5\n")
    assert documents(tmp_path) == ["One"]
    assert any("b.csv" in each and "is skipped" in each for each in notices(lambda: documents(tmp_path)))
    (tmp_path / "c.csv").write_text("title,story\nOne,Two\n")
    assert "c.csv' has no column 'text'" in str(refusal(lambda: documents(tmp_path), UsageError))


def test_numbers_that_are_named_are_no_text(tmp_path):
    (tmp_path / "y.csv").write_text("y\n5\n6\n")
    error = refusal(lambda: documents(tmp_path / "y.csv"), UsageError)
    assert "has no column 'text'" in str(error) and "--task forecast" in error.hint
    assert documents(tmp_path / "y.csv", text_column="y") == ["5", "6"]


# --- numbers ---


@pytest.mark.parametrize(
    ("text", "point", "comma"),
    [
        ("12", 12, 12), ("-3", -3, -3), ("+3", 3, 3), ("1e5", 1e5, 1e5), ("1.5", 1.5, None), ("1,5", None, 1.5),
        (".5", 0.5, None), ("5.", 5, None), (",5", None, 0.5), ("1.234", 1.234, 1234), ("1,234", 1234, 1.234),
        ("1,234.5", 1234.5, None), ("1.234,56", None, 1234.56), ("1,234,567", 1234567, None), ("1 234", 1234, 1234),
        ("1 234,5", None, 1234.5), ("1\u00a0234\u00a0567", 1234567, 1234567), ("1'234.5", 1234.5, None),
        ("0,123", None, 0.123), ("1,23,456", None, None), ("1 23", None, None), ("1,234 567", None, None),
        ("1_0.5", None, None), ("infinity", None, None), ("inf", None, None), ("-nan", None, None),
        ("\u0661\u0662", None, None), ("\uff11\uff12", None, None), ("0x10", None, None), ("1e", None, None),
        ("12%", None, None), ("--5", None, None), (".", None, None), ("1.2.3", None, None), ("e5", None, None),
        ("1e-5", 1e-5, 1e-5), ("2.5e+3", 2500, None), ("1.234e2", 123.4, None), ("true", None, None),
    ],
)  # fmt: skip
def test_numbers_have_one_grammar(text, point, comma):
    assert read_number(text, POINT) == point and read_number(text, COMMA) == comma


@pytest.mark.parametrize("cell", ["1_0.5", "infinity", "-nan", "\u0661\u0662", "1,23,4", "0x10", "12%"])
def test_what_is_no_number_is_refused_by_row_and_column(tmp_path, cell):
    (tmp_path / "x.csv").write_text(f'y\n1\n"{cell}"\n')
    message = str(refusal(lambda: series(tmp_path / "x.csv")))
    assert "row 2 of" in message and f"column 'y' holds {cell!r}, which is not a number." in message


@pytest.mark.parametrize("cell", ["1e200", "-1e200", "9" * 400, "1e999", "1" + "0" * 5000])
@pytest.mark.parametrize("form", ["x.csv", "x.jsonl", "x.json"])
def test_numbers_that_are_too_large_are_refused_by_row_and_column(tmp_path, form, cell):
    rows = {
        "x.csv": f"y\n1\n{cell}\n",
        "x.jsonl": f'{{"y": 1}}\n{{"y": {cell}}}\n',
        "x.json": f'[{{"y": 1}},{{"y": {cell}}}]',
    }
    (tmp_path / form).write_text(rows[form])
    message = str(refusal(lambda: series(tmp_path / form)))
    assert (" 2 of" in message) and "column 'y' holds" in message and len(message) < 400
    assert "too large" in message or "not a number" in message


@pytest.mark.parametrize("kind", [pyarrow.timestamp("s"), pyarrow.timestamp("us", "UTC")])
def test_a_time_in_parquet_beyond_the_year_9999_is_refused_by_row_and_column(tmp_path, kind):
    far = 253402300800 * (1_000_000 if kind.unit == "us" else 1)
    table = pyarrow.table({"date": pyarrow.array([0, far], kind), "y": [1, 2]})
    parquet.write_table(table, tmp_path / "x.parquet")
    message = str(refusal(lambda: series(tmp_path / "x.parquet")))
    assert message.startswith("row 2 of") and "column 'date' holds a timestamp" in message


def test_huge_numbers_are_no_fault_of_the_program():
    message = str(refusal(lambda: series(CASES / "huge_int.jsonl")))
    assert "line 150 of" in message and "column 'y' holds a whole number of about 400 digits" in message


@pytest.mark.parametrize("scale", [1e98, 1e-99, 1e-160, 1e-300])
def test_numbers_of_any_size_are_learned_or_refused(tmp_path, scale):
    path = tmp_path / "x.csv"
    path.write_text("y\n" + "".join(f"{(k % 7 + k / 10) * scale!r}\n" for k in range(60)))
    options = options_for({"task": "forecast"})
    try:
        data = SeriesData.prepare([str(path)], options, tmp_path / "cache", lambda *_: None)
    except TextgenError as error:
        assert "constant" in str(error)
    else:
        assert all(np.isfinite(rows.inputs).all() for rows in data.rows)


def test_decimal_commas_are_detected():
    path = CASES / "decimal_comma.csv"
    (found,) = series(path)
    assert found.name == "Wert" and found.values[:3].tolist() == [20.12, 23.69, 24.74]
    assert notices(lambda: series(path)) == [
        f"{str(path)!r} is read with ';' as the delimiter.", f"{str(path)!r} is read with decimal commas."
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("cells", "wanted"),
    [
        (["1.234,56", "7"], [1234.56, 7]), (["1.234", "2,5"], [1234, 2.5]), (["1,234", "2.5"], [1234, 2.5]),
        (["1,234", "12"], None), (["1.5", "2,5"], None), (["1,5", "x"], None), (["12", "13"], [12, 13]),
        (["1,234,567", "1,234"], [1234567, 1234]), (["1 234,5", "2"], [1234.5, 2]), (["-0,5", "1"], [-0.5, 1]),
    ],
)  # fmt: skip
def test_the_other_cells_decide_or_the_option(tmp_path, cells, wanted):
    path = tmp_path / "x.csv"
    path.write_text("y\n" + "".join(f'"{cell}"\n' for cell in cells))
    if wanted is not None:
        assert values(path) == [wanted]
    else:
        error = refusal(lambda: series(path))
        assert "column 'y' holds" in str(error)
        assert "x" in cells or error.hint.startswith("--decimal")


def test_a_semicolon_file_does_not_say_that_points_are_decimal(tmp_path):
    (tmp_path / "x.csv").write_text("n;y\n1;1.234\n2;987\n")
    assert "--decimal" in refusal(lambda: series(tmp_path / "x.csv", target_column=["y"])).hint
    (tmp_path / "x.csv").write_text("n,y\n1,1.234\n2,987\n")
    assert values(tmp_path / "x.csv", target_column=["y"]) == [[1.234, 987]]


def test_a_decimal_comma_after_the_head_is_refused_with_the_option(tmp_path, monkeypatch):
    from textgen.tasks.forecasting import reading

    monkeypatch.setattr(reading, "HEAD_ROWS", 3)
    (tmp_path / "x.csv").write_text("n;y\n" + "1;5\n" * 4 + "1;2,5\n")
    error = refusal(lambda: series(tmp_path / "x.csv", target_column=["y"]))
    assert "row 5 of" in str(error) and error.hint == "--decimal , reads it as 2.5."


# --- series ---


def forecast_data(path, folder, **options):
    given_options = options_for({"task": "forecast", **options})
    return SeriesData.prepare([str(path)], given_options, folder, lambda *_: None)


def long_table(path, **named):
    """A table of a time step, a name and a number in each row."""
    path.write_text("t,s,y\n" + "".join(f"{k},{s},{y}\n" for s, each in named.items() for k, y in enumerate(each)))
    return path


def test_one_constant_series_does_not_stop_the_others(tmp_path):
    path = CASES / "one_constant.csv"
    said = notices(lambda: forecast_data(path, tmp_path, series_column="store"))
    assert said == ["1 of 3 series left out: series 'B' is constant: it holds 7 in all 135 rows of the training part."]
    data = forecast_data(path, tmp_path, series_column="store")
    assert list(data.design.scales) == ["A", "C"]
    folder = textgen.train(path, task="forecast", series_column="store", max_steps=2, hidden_size=4, threads=1,
                           cell="gru", output_dir=str(tmp_path / "run"))  # fmt: skip
    found = {each.series: each for each in textgen.load(folder).predict(path, horizon=3, number=10)}
    assert list(found) == ["A", "B", "C"] and found["B"].values.tolist() == [7, 7, 7]
    assert found["B"].low.tolist() == found["B"].high.tolist() == [7, 7, 7]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ([3] * 60, "is constant"),
        ([1, 2, 3], "has 3 time steps"),
        ([""] * 60, "has no numbers"),
        ([0.0] * 60, "constant"),
    ],
)
def test_a_series_that_cannot_be_learned_is_left_out_by_name(tmp_path, bad, reason):
    path = long_table(tmp_path / "x.csv", A=[k % 5 + k for k in range(60)], bad=bad)
    (said,) = notices(lambda: forecast_data(path, tmp_path, time_column=["t"], series_column="s"))
    assert said.startswith("1 of 2 series left out: ") and "'bad'" in said and reason in said
    alone = long_table(tmp_path / "y.csv", bad=bad)
    assert reason in str(refusal(lambda: forecast_data(alone, tmp_path, time_column=["t"], series_column="s")))


@pytest.mark.parametrize(
    "options", [{}, {"horizon": 5}, {"horizon": 30}, {"validation_split": 0.5}, {"validation_split": 0.0}]
)
def test_the_shortest_series_is_the_one_that_the_error_names(tmp_path, options):
    named, needed = set(), 0
    for length in range(2, 80):
        path = tmp_path / f"{length}.csv"
        path.write_text("y\n" + "".join(f"{k * k % 11}\n" for k in range(length)))
        try:
            forecast_data(path, tmp_path, **options)
        except TextgenError as error:
            named.add(int(str(error).split("needs at least ")[1].split(",")[0].rstrip(".")))
            assert "--horizon" not in error.hint or options.get("horizon", 1) > 1
        else:
            needed = length
            break
    assert named == {needed}


def test_the_horizon_that_a_hint_names_fits(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("y\n" + "".join(f"{k * k % 11}\n" for k in range(20)))
    hint = refusal(lambda: forecast_data(path, tmp_path, horizon=100_000)).hint
    fits = int(hint.split()[1])
    forecast_data(path, tmp_path, horizon=fits)
    refusal(lambda: forecast_data(path, tmp_path, horizon=fits + 1))


def test_series_have_one_name_each(tmp_path):
    (tmp_path / "x.csv").write_text("s,a,x/a\nk/x,1,2\nk,3,4\n")
    message = str(refusal(lambda: series(tmp_path / "x.csv", series_column="s", target_column=["a", "x/a"])))
    assert "two series have the name 'k/x/a'" in message
    for cells in ('"", 1', "null, 1"):
        empty, y = cells.split(", ")
        (tmp_path / "x.jsonl").write_text(f'{{"s": "A", "y": 1}}\n{{"s": {empty}, "y": {y}}}\n')
        message = str(refusal(lambda: series(tmp_path / "x.jsonl", series_column="s")))
        assert "line 2 of" in message and "has no series name (column 's' is empty)" in message


@pytest.mark.parametrize("form", ["comma.csv", "a.jsonl", "a.parquet", "a.json"])
def test_series_are_named_alike_in_every_format(tmp_path, form):
    rows = [{"s": name, "y": float(k)} for name in (1.0, 2.0) for k in range(5)]
    assert [each.name for each in series(written(tmp_path / form, rows), series_column="s")] == ["1", "2"]


# --- what a person sees ---


def test_notes_and_warnings_are_shown_once_and_notes_not_when_quiet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("x.csv").write_text("id;story\n" + "".join(f"{k};some words {k}\n" for k in range(40)))
    plain = ("train", "x.csv", "--max-steps", 1, "--hidden-size", 4, "--threads", 1, "--dry-run")
    shown = run(*plain).stderr
    assert shown.count("Note: 'x.csv' is read with ';' as the delimiter.") == 1
    assert shown.count("Note: 'story' is the only column") == 1
    assert "Note" not in run(*plain, "--quiet").stderr
    Path("y.jsonl").write_text('{"text": "some words"}\n' * 20 + '{"Text": "x"}\n')
    warned = run("train", "y.jsonl", *plain[2:], "--quiet")
    assert warned.stderr == "Warning: 1 of 21 rows of 'y.jsonl' have no 'text' column; they have 'Text'.\n"
    assert "--delimiter" in run("train", "--help-all").output and "--decimal" in run("predict", "--help-all").output


def test_python_gets_warnings_of_its_own_kind(tmp_path):
    (tmp_path / "x.csv").write_text("a;text\n1;x\n")
    with pytest.warns(TextgenNote, match="as the delimiter"):
        documents(tmp_path / "x.csv")


def test_the_options_reach_every_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("y.csv").write_text("n^y\n" + "".join(f"{k}^{k % 7},{k % 10}\n" for k in range(60)))
    how = ("--delimiter", "^", "--decimal", ",")
    trained = run("train", "y.csv", "--task", "forecast", "--time-column", "n", *how, "--max-steps", 1, "--hidden-size",
                  4, "--threads", 1, "--output-dir", "m", "-q")  # fmt: skip
    assert trained.exit_code == 0, trained.output
    assert run("predict", "-m", "m", "y.csv", *how, "--paths", 0).exit_code == 0
    assert run("predict", "-m", "m", "y.csv", "--paths", 0).exit_code == 0  # the model remembers the delimiter
    assert isinstance(run("predict", "-m", "m", "y.csv", "--delimiter", ";").exception, UsageError)
    Path("z.csv").write_text("n^y\n" + "".join(f"{k}^{k % 7},{k % 10}\n" for k in range(90)))
    assert run("evaluate", "-m", "m", "z.csv", *how, "--paths", 0).exit_code == 0
    assert math.isclose(textgen.load("m").read("y.csv", None, "^", ",")[0].series.values[1], 1.1)


MODEL_COMMANDS = {
    "predict": ("predict", "-m", "{}", "x.csv"),
    "sample": ("sample", "-m", "{}"),
    "evaluate": ("evaluate", "-m", "{}"),
    "quantize": ("quantize", "{}", "out"),
    "compress": ("compress", "-m", "{}", "x.csv", "-o", "x.tgc"),
    "init": ("train", "x.csv", "--init-from", "{}"),
}


@pytest.mark.parametrize("command", MODEL_COMMANDS)
@pytest.mark.parametrize("kind", ["nosuch", "empty", "other", "file"])
def test_a_folder_without_a_model_is_never_a_model_that_writes(tmp_path, monkeypatch, command, kind):
    monkeypatch.chdir(tmp_path)
    Path("x.csv").write_text("text\nwords\n")
    Path("empty").mkdir()
    Path("file").write_text("x")
    run("tokenize", "x.csv", "--output-dir", "other", "--tokenizer", "char", "--validation-split", 0)
    assert Path("other/manifest.json").is_file()
    ended = run(*(part.format(kind) for part in MODEL_COMMANDS[command]))
    message = str(ended.exception)
    assert isinstance(ended.exception, TextgenError) and repr(kind) in message
    assert "model folder" in message and "writes" not in message
    error = refusal(lambda: textgen.load(kind))
    assert "model folder" in str(error) and (error.hint is not None) == (kind in ("nosuch", "file"))


def test_a_folder_that_is_no_run_is_not_a_damaged_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    for command in ("show", "verify"):
        assert "damaged" not in str(run("runs", command, "empty").exception)


# --- two inputs that were read wrongly, as they were typed ---


def test_a_heading_that_occurs_twice_is_refused_by_name():
    path = CASES / "dup_header.csv"
    for read_it in (documents, labelled):
        said = refusal(lambda read_it=read_it: read_it(path))
        assert "two columns named 'text' (columns 1 and 3)" in str(said)


def test_a_table_divided_by_semicolons_gives_its_text_column():
    path = CASES / "text_semicolon.csv"
    expected = [line.split(";", 1)[1] for line in path.read_text().splitlines()[1:]]
    assert documents(path) == documents(path, text_column="body") == expected and len(expected) == 120
    said = str(refusal(lambda: documents(path, text_column="bdy")))
    assert "its columns are 'id', 'body'. Did you mean 'body'?" in said


@pytest.fixture(autouse=True)
def flags():
    """Messages as the command line spells them."""
    with spelled_as(as_flags):
        yield
