"""Laws of `--encoding auto`: every file is read in its own encoding, the choice is reported, kept, and never silent."""

import bz2
import codecs
import gzip
import json
import sys
import tracemalloc
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from terminal import refusal as refused
from terminal import run

from textgen.data import encodings, sources
from textgen.data.encodings import choosing, detect
from textgen.data.sources import SourceOptions, find_sources, read
from textgen.errors import TextgenError

ENGLISH = (
    "The captain said, “Let’s go — now.” He waited at the café for Zoë, who came at noon. They spoke of old times.\n"
)
FRENCH = "Le garçon a mangé des crêpes à la crème près de la forêt. Où étaient les élèves ? Ça, personne ne le sait.\n"
GERMAN = "Über den Wäldern läuteten die Glocken. Das Mädchen hörte sie täglich, und der König saß müde auf dem Stuhl.\n"
PORTUGUESE = "Não há razão para que a educação não seja um direito de todos. O avô contava histórias até à noite.\n"
SWEDISH = "Den äldste åkte över sjön för att söka lyckan. På ön växte äpplen och körsbär, och där bodde ett troll.\n"
POLISH = "Zażółć gęślą jaźń. Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw.\n"
HUNGARIAN = "A szőke nő főzött egy jó ebédet. Minden emberi lény szabadon születik, és egyenlő méltósága és joga van.\n"
RUSSIAN = "Все люди рождаются свободными и равными в своём достоинстве и правах. Они наделены разумом и совестью.\n"
GREEK = "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα. Είναι προικισμένοι.\n"
JAPANESE = (
    "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。人間は理性を授けられている。\n"
)
CHINESE = "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心,并应以兄弟关系的精神相对待。\n"
KOREAN = "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. 인간은 이성과 양심을 부여받았다.\n"
WRITTEN = [
    (ENGLISH, "cp1252"), (FRENCH, "latin-1"), (FRENCH, "cp1252"), (GERMAN, "iso8859-15"), (PORTUGUESE, "cp1252"),
    (SWEDISH, "latin-1"), (POLISH, "cp1250"), (POLISH, "iso8859-2"), (HUNGARIAN, "cp1250"), (RUSSIAN, "cp1251"),
    (RUSSIAN, "koi8-r"), (GREEK, "cp1253"), (JAPANESE, "shift_jis"), (JAPANESE, "euc_jp"), (CHINESE, "gb2312"),
    (KOREAN, "euc_kr"), (FRENCH, "utf-8"), (JAPANESE, "utf-8-sig"), (ENGLISH, "utf-16"), (FRENCH, "utf-16-be"),
    (GERMAN, "utf-32-le"),
]  # fmt: skip
TINY = ["--max-steps", 2, "--hidden-size", 8, "--threads", 1, "--tokenizer", "char", "--batch-size", 2]


def text_of(*paths, **options):
    found = find_sources([str(path) for path in paths])
    return b"".join(piece for _, piece in read(found, SourceOptions(encoding="auto", **options))).decode()


@pytest.fixture(autouse=True)
def desk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def mixed(desk):
    """A folder of books: UTF-8, and one each in other encodings."""
    (desk / "books").mkdir()
    texts = {
        "a.txt": (ENGLISH, "utf-8"), "b.txt": (FRENCH, "cp1252"), "c.txt": (JAPANESE, "shift_jis"),
        "d.txt": (GERMAN, "utf-16"), "e.txt": (RUSSIAN, "utf-8"),
    }  # fmt: skip
    for name, (text, encoding) in texts.items():
        (desk / "books" / name).write_bytes((text * 8).encode(encoding))
    return "".join(text * 8 for text, _ in texts.values())


@pytest.mark.parametrize(("text", "encoding"), WRITTEN)
def test_a_page_of_text_is_read_in_the_encoding_it_is_written_in(text, encoding):
    Path("x.txt").write_bytes((text * 6).encode(encoding))
    assert text_of("x.txt") == text * 6


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_packed_files_and_tables_are_judged_unpacked(pack):
    Path("x.csv.gz").write_bytes(pack(f'id,text\r\n1,"{FRENCH * 4}"\r\n'.encode("cp1252")))
    assert "garçon" in text_of("x.csv.gz", text_column="text")


def test_the_order_is_mark_then_utf_8_then_charset_normalizer():
    with mock.patch.object(encodings, "charset_of", side_effect=AssertionError):
        assert detect([codecs.BOM_UTF8 + b"\xff"], "x") == "utf-8"  # and the byte is refused when it is read
        assert detect([codecs.BOM_UTF16_BE, b"\0a"], "x") == "utf-16-be"
        assert detect(["Ã©".encode()], "x") == "utf-8"
        assert detect([b"plain"], "x") == "utf-8"
        assert detect([], "x") == "utf-8"


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(text=st.text(min_size=1), size=st.sampled_from([1, 2, 3, 7, 4096]))
def test_whatever_is_utf_8_is_read_as_utf_8_wherever_it_is_cut(text, size):
    data = text.encode()
    blocks = [data[at : at + size] for at in range(0, len(data), size)]
    expected = encodings.marked_encoding(data) or encodings.likely_wide(data) or "utf-8"
    assert detect(blocks, "x") == expected


@pytest.mark.parametrize("size", [1, 5, 1000, 1 << 20])
def test_the_choice_does_not_depend_on_the_blocks(size):
    for text, encoding in WRITTEN:
        data = (text * 6).encode(encoding)
        assert detect([data[at : at + size] for at in range(0, len(data), size)], "x") == detect([data], "x")


def test_letters_far_into_a_file_decide_and_memory_is_bounded():
    data = b"plain words and nothing else, line after line\n" * 200_000 + FRENCH.encode("cp1252") * 20
    Path("x.txt").write_bytes(data)
    tracemalloc.start()
    assert text_of("x.txt").endswith(FRENCH)
    tracemalloc.reset_peak()
    detect((data[at : at + (1 << 20)] for at in range(0, len(data), 1 << 20)), "x")
    assert tracemalloc.get_traced_memory()[1] - tracemalloc.get_traced_memory()[0] < 8 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("encoding", ["shift_jis", "cp1252"])
def test_a_file_that_is_one_long_line_is_decided_too(encoding):
    text = (JAPANESE if encoding == "shift_jis" else FRENCH).strip() * 3000
    Path("x.txt").write_bytes(text.encode(encoding))
    assert text_of("x.txt") == text


def test_a_last_line_without_an_end_counts():
    Path("x.txt").write_bytes("un café".encode("cp1252"))
    assert text_of("x.txt") == "un café"


def test_a_folder_of_mixed_encodings_trains_and_says_what_it_chose(mixed):
    strict = run("train", "books", *TINY, "--output-dir", "strict")
    assert strict.code == 1
    assert refused(strict, 1)[0].startswith("'books/b.txt' is not UTF-8 text (byte 0xe7")
    assert "--encoding auto detects the encoding of 'books/b.txt'" in strict.err
    done = run("train", "books", *TINY, "--output-dir", "run", "--encoding", "auto")
    assert done.code == 0, done.err
    assert text_of("books") == mixed
    for said in (
        "'books/b.txt' read as windows-1252",
        "'books/c.txt' read as cp932",
        "'books/d.txt' read as UTF-16-LE",
    ):
        assert said in done.err
    assert "'books/a.txt', 'books/e.txt' read as UTF-8" in done.err
    kept = json.loads(Path("run/training_args.json").read_text())["encodings"]
    assert {Path(path).name: name for path, name in kept.items()} == {
        "b.txt": "cp1252", "c.txt": "cp932", "d.txt": "utf-16-le",
    }  # fmt: skip


def test_resuming_reads_as_the_run_began_whatever_would_be_chosen_now(mixed):
    done = run("train", "books", *TINY, "--output-dir", "runs/a", "--encoding", "auto", "--save-steps", 1)
    assert done.code == 0, done.err
    for path in Path("runs/.tokens").iterdir():
        path.rename(Path("gone"))
    with mock.patch.object(encodings, "charset_of", side_effect=AssertionError("decided anew")):
        again = run("train", "--resume", "runs/a", "--max-time", 1)
    assert again.code == 0, again.err


def test_each_file_is_judged_once_however_often_it_is_read(mixed):
    with mock.patch.object(encodings, "charset_of", wraps=encodings.charset_of) as judged:
        with choosing():
            assert text_of("books") == text_of("books")
        assert judged.call_count == 2
    assert not encodings._choices.get()


def test_a_wrong_choice_is_a_sentence_with_file_place_and_encoding():
    Path("x.txt").write_bytes((FRENCH * 2000).encode("cp1252") + b"\x81\n")
    with pytest.raises(TextgenError) as caught:
        text_of("x.txt")
    size = len((FRENCH * 2000).encode("cp1252"))
    assert str(caught.value) == f"'x.txt' is not windows-1252 text (byte 0x81 at offset {size})."
    assert "encoding=NAME" in caught.value.hint


@pytest.mark.parametrize("where", [0, 1, 2])
def test_utf_8_with_a_wrong_byte_is_damaged_and_not_of_another_encoding(where):
    text = FRENCH.encode() * 2000
    place = text.index(b"\n", len(text) * where // 2) + 1 if where < 2 else len(text)
    Path("x.txt").write_bytes(text[:place] + b"caf\xe9 noir\n" + text[place:])
    with pytest.raises(TextgenError) as caught:
        text_of("x.txt")
    assert str(caught.value) == f"'x.txt' is not UTF-8 text (byte 0xe9 at offset {place + 3})."


@pytest.mark.parametrize(
    "data", [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\1\0" + bytes(range(256)) * 9, b"\xff\xd8\xff\0\x10JFIF\xfe"]
)
def test_what_is_no_text_is_refused_by_name(data):
    Path("x.bin").write_bytes(data)
    with pytest.raises(TextgenError) as caught:
        text_of("x.bin")
    assert "'x.bin' is not text in any encoding" in str(caught.value)


def test_standard_input_tokenize_and_evaluate_say_what_they_chose(desk):
    data = (FRENCH * 30).encode("cp1252")
    done = run("train", "-", *TINY, "--output-dir", "run", "--encoding", "auto", stdin=data)
    assert done.code == 0 and "'standard input' read as windows-1252" in done.err
    assert "encodings" not in json.loads(Path("run/training_args.json").read_text())
    Path("x.txt").write_bytes(data)
    tokenized = run("tokenize", "x.txt", "--output-dir", "tokens", "--encoding", "auto")
    assert tokenized.code == 0 and "'x.txt' read as windows-1252" in tokenized.err
    scored = run("evaluate", "-m", "run", "x.txt", "--encoding", "auto", "--json")
    assert scored.code == 0 and "'x.txt' read as windows-1252" in scored.err
    assert json.loads(scored.out)["unknown"] is None and json.loads(scored.out)["characters"] == 30 * len(FRENCH)


@pytest.mark.parametrize(
    ("table", "options"),
    [
        ("text,label\r\n" + "un café à la crème,çà\r\nune forêt près d’ici,là\r\n" * 8, ["--task", "classify"]),
        (
            "q,a\r\n" + "".join(f"où est le café {n},près de la forêt {n}\r\n" for n in range(16)),
            ["--prompt-column", "q", "--completion-column", "a"],
        ),
        (
            "date,été à la forêt\r\n" + "".join(f"2024-01-{n:02},{n % 7}\r\n" for n in range(1, 32)),
            ["--task", "forecast", "--seq-length", 8],
        ),
    ],
)
def test_tables_of_every_task_are_judged_and_read_again_when_resumed(table, options):
    Path("t.csv").write_bytes(table.encode("cp1252"))
    sizes = ["--max-steps", 2, "--hidden-size", 8, "--threads", 1, "--save-steps", 1]
    done = run("train", "t.csv", *sizes, *options, "--encoding", "auto", "--output-dir", "runs/a")
    assert done.code == 0 and "'t.csv' read as windows-1252" in done.err, done.err
    Path("runs/.tokens").rename("gone")
    with mock.patch.object(encodings, "charset_of", side_effect=AssertionError("decided anew")):
        assert run("train", "--resume", "runs/a", "--max-time", 1).code == 0
    assert run("evaluate", "-m", "runs/a", "t.csv").code in (0, 1)  # forecasts may have nothing left to score


def test_without_charset_normalizer_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "charset_normalizer", None)
    Path("x.txt").write_bytes(FRENCH.encode("cp1252"))
    with pytest.raises(TextgenError, match="needs charset-normalizer"):
        text_of("x.txt")
    Path("y.txt").write_text(FRENCH, encoding="utf-8")
    assert text_of("y.txt") == FRENCH


def test_letters_of_a_language_count_and_punctuation_does_not_unless_it_is_inside_a_word():
    assert encodings.latin_score("un café noir", ("é",)) == 1.0
    assert encodings.latin_score("f„r", encodings.WESTERN) == 0.0  # a quotation mark within a word is no letter
    assert encodings.latin_score("“so”", encodings.WESTERN) == 1.0


def test_a_file_is_read_whole_for_its_span_alone(desk):
    Path("x.txt").write_bytes(b"abc" + FRENCH.encode("cp1252"))
    part = sources.Source(Path("x.txt"), "x.txt", (0, 3))
    assert list(read([part], SourceOptions(encoding="auto"))) == [(0, b"abc")]
