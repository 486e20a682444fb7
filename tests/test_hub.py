"""Data sets of the Hub: a folder of the same form is read through the same code, and what cannot be had is said."""

import json
import sys

import pytest
from pyarrow import Table, parquet

from textgen.data import recipes
from textgen.data.sources import SourceOptions, find_sources, read
from textgen.errors import TextgenError, UsageError

TEXTS = ["Once.\r\n", "“Twice”, \u2028 she said.\n\n", "日本語"]


@pytest.fixture
def data_set(tmp_path, monkeypatch):
    """The data set owner/name, which the library finds in the current folder before it asks the Hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    rows = {"id": [0, 1, 2, 3, 4], "text": [*TEXTS, None, ""]}
    parquet.write_table(Table.from_pydict(rows), folder / "train-00000-of-00001.parquet")
    parquet.write_table(Table.from_pydict({"id": [9], "text": ["tested"]}), folder / "test-00000-of-00001.parquet")
    return folder


def documents(name, **options):
    sources = find_sources([name], **options)
    first = list(read(sources, SourceOptions(**options)))
    assert list(read(sources, SourceOptions(**options))) == first  # a corpus is read several times
    return [text.decode() for _, text in first]


def test_rows_are_documents_and_splits_are_parts(data_set):
    assert documents("hub:owner/name") == TEXTS
    assert documents("hub:owner/name::test") == ["tested"]
    assert documents("hub:owner/name:default:test") == ["tested"]


def test_jsonl_and_another_column(data_set):
    for file in data_set.iterdir():
        file.unlink()
    (data_set / "train.jsonl").write_text("".join(json.dumps({"n": 1, "story": t, "b": t[::-1]}) + "\n" for t in TEXTS))
    assert documents("hub:owner/name", text_column="story") == TEXTS
    with pytest.raises(UsageError, match=r"'hub:owner/name' has no column 'text'; its columns are 'n', 'story', 'b'\."):
        documents("hub:owner/name")
    with pytest.raises(TextgenError, match=r"row 1 of 'hub:owner/name': column 'n' holds a number, not text\."):
        documents("hub:owner/name", text_column="n")


def test_a_data_set_that_cannot_be_had_is_one_sentence(data_set):
    for name in ("hub:nobody/nothing", "hub:owner/name::nosuch", "hub:owner/name:nosuch"):
        with pytest.raises(TextgenError) as caught:
            documents(name)
        message = str(caught.value)
        assert message.startswith(f"the data set {name!r} cannot be read from the Hub (")
        assert message.endswith(").") and "\n" not in message
        assert "https://huggingface.co/datasets/" in caught.value.hint


def test_spelling():
    assert recipes.parse("hub:owner/name") == ("owner/name", None, "train")
    assert recipes.parse("hub:name") == ("name", None, "train")
    assert recipes.parse("hub:o/n:small:test") == ("o/n", "small", "test")
    assert recipes.parse("hub:o/n:small") == ("o/n", "small", "train")
    assert recipes.parse("hub:o/n::test") == ("o/n", None, "test")
    for wrong in ("hub:", "hub:a/b/c", "hub:a/b:c:d:e", "hub:a b", "hub:/etc/passwd", "hub:../x/y"):
        with pytest.raises(UsageError, match="is not the name of a Hub data set"):
            recipes.parse(wrong)


def test_a_plain_name_of_the_hub_gets_a_hint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"^corpus 'owner/name' does not exist\.") as caught:
        find_sources(["owner/name"])
    assert caught.value.hint == "to read a data set of the Hub, write hub:owner/name."


def test_the_library_is_imported_only_when_a_data_set_is_named(tmp_path):
    import subprocess

    (tmp_path / "a.csv").write_text("text\na\n")
    program = (
        "import sys; from textgen.data.sources import *; list(read(find_sources(['a.csv']), SourceOptions())); "
        "print({'datasets', 'pyarrow', 'torch'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
