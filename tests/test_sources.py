"""Laws of reading: the bytes that come out are the text that went in, however it was written, packed or cut."""

import codecs
import encodings
import gzip
import io
import os
import pkgutil
import re
import socket
import subprocess
import sys
import tempfile
import tracemalloc
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from textgen.data import encodings as decoding
from textgen.data import sources
from textgen.data.archives import format_of
from textgen.data.sources import Source, SourceOptions, find_sources, read
from textgen.errors import TextgenError, UsageError

TEXT = st.text(min_size=1).filter(lambda text: text[0] not in "\ufeff\ufffe\ubbef\uefbb")  # what begins a mark
DENSE = TEXT.filter(lambda text: text.count("\0") * 5 <= len(text))  # not refused for its NUL bytes
CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
RARELY, OFTEN = settings(CALM, max_examples=25), settings(CALM, max_examples=80)
PACKED = [b"\x1f\x8b\x08", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"]
READ_SIZES = [1, 2, 3, 7, 1 << 20]
WRITTEN = {  # how a text may be written, and what has to be said when it is read
    "utf-8": (lambda text: text.encode(), {}),
    "utf-8 marked": (lambda text: codecs.BOM_UTF8 + text.encode(), {}),
    "utf-16-le marked": (lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"), {}),
    "utf-16-be marked": (lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"), {}),
    "utf-32-le marked": (lambda text: codecs.BOM_UTF32_LE + text.encode("utf-32-le"), {}),
    "utf-32-be marked": (lambda text: codecs.BOM_UTF32_BE + text.encode("utf-32-be"), {}),
    "utf-16-be": (lambda text: text.encode("utf-16-be"), {"encoding": "utf-16-be"}),
    "utf-16": (lambda text: text.encode("utf-16-le"), {"encoding": "utf-16"}),
    "utf-7": (lambda text: text.encode("utf-7"), {"encoding": "utf-7"}),
    "gb18030 marked": (lambda text: ("\ufeff" + text).encode("gb18030"), {"encoding": "gb18030"}),
    "gzip": (lambda text: gzip.compress(text.encode()), {}),
    "gzip in two members": (
        lambda text: b"".join(gzip.compress(p) for p in (text.encode()[:3], text.encode()[3:])),
        {},
    ),
    "gzip of utf-16": (lambda text: gzip.compress(codecs.BOM_UTF16_LE + text.encode("utf-16-le")), {}),
}
UTF16_CLASH = re.compile("^\0")  # after a mark of UTF-16-LE this makes the mark of UTF-32-LE


@pytest.fixture(scope="module")
def scratch():
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder, "text.txt")


def pieces(path, data, size=1 << 20, **options):
    path.write_bytes(data)
    with mock.patch.object(sources, "READ_BYTES", size):
        return list(read([Source(path, path.name)], SourceOptions(**options)))


def documents(path, data, size=1 << 20, **options):
    try:
        found = pieces(path, data, size, **options)
    except TextgenError as error:
        assert "no text" in str(error)
        return []
    joined = defaultdict(bytes)
    for number, piece in found:
        joined[number] += piece
    assert list(joined) == list(range(len(joined)))
    assert [number for number, _ in found] == sorted(number for number, _ in found)
    return list(joined.values())


def refusal(run, kind=TextgenError):
    with pytest.raises(kind) as caught:
        run()
    assert type(caught.value) is kind
    message = str(caught.value)
    assert message.endswith((".", "?")) and "\n" not in message
    return message, caught.value.hint


@pytest.mark.parametrize("size", READ_SIZES)
@pytest.mark.parametrize("how", WRITTEN)
@RARELY
@given(text=DENSE)
@example(text="a\r\n\rb \u2028\x85\n\n\t")
@example(text="x\ufeff\U0001f469\u200d\U0001f680\ud7ff\uffff")
def test_the_text_is_exact_however_it_is_written_and_wherever_it_is_cut(scratch, how, size, text):
    write, options = WRITTEN[how]
    if how.startswith(("utf-16", "gzip of")) and UTF16_CLASH.match(text):
        text = "x" + text
    found = pieces(scratch, write(text), size, **options)
    assert b"".join(piece for _, piece in found) == text.encode()
    assert all(number == 0 and piece and piece.decode() for number, piece in found)


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "shift_jis", "euc_kr", "hz", "iso2022_jp", "big5", "koi8-r"])
@RARELY
@given(data=st.data(), size=st.sampled_from(READ_SIZES))
def test_a_named_encoding_gives_what_python_gives(scratch, encoding, data, size):
    plain = st.characters(exclude_characters="\x1b\x0e\x0f~")  # what escape sequences begin with
    raw = data.draw(st.text(plain, min_size=1)).encode(encoding, errors="ignore")
    if text := raw.decode(encoding):
        assert documents(scratch, raw, size, encoding=encoding) == [text.encode()]


def broken_bytes():
    tail = st.sampled_from(
        [b"", b"\xff", b"\xc3", b"\xe2\x82", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"\x80"]
    )
    return st.tuples(st.text(max_size=9), tail | st.binary(max_size=6), st.text(max_size=5)).map(
        lambda parts: parts[0].encode() + parts[1] + parts[2].encode()
    )


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize(
    "encoding", [None, "utf-8", "utf-16-le", "utf-32-be", "cp1252", "shift_jis", "gb18030", "hz", "iso2022_kr", "utf-7"]
)
@OFTEN
@given(data=broken_bytes() | st.binary(min_size=1))
@example(data=b"ok\xe2\x82")
@example(data=b"odd")
@example(data=b"}$p\x1b$\xddc\x80}~$a\x91\x1b\xce$d")  # an escape sequence that never was one
def test_what_is_not_text_is_refused_at_the_very_byte(scratch, encoding, size, data):
    if any(data.startswith(mark) for mark in (*decoding.BYTE_ORDER_MARKS.values(), *PACKED)):
        data = b"x" + data
    if encoding is None and data.count(0) > 0.2 * len(data):
        data += b"x" * 5 * data.count(0)
    if format_of(data):
        data = b"x" + data
    options = {} if encoding is None else {"encoding": encoding}
    try:
        text = data.decode(encoding or "utf-8").removeprefix("\ufeff")
        text.encode()
    except UnicodeDecodeError as error:
        message, hint = refusal(lambda: pieces(scratch, data, size, **options))
        assert message.endswith(f" text (byte 0x{data[error.start]:02x} at offset {error.start}).")
        assert hint
    except UnicodeEncodeError:
        assert "half a character" in refusal(lambda: pieces(scratch, data, size, **options))[0]
    else:
        assert b"".join(documents(scratch, data, size, **options)) == text.encode()


def test_an_offset_counts_the_bytes_of_the_unpacked_file_with_its_mark(scratch):
    data = codecs.BOM_UTF8 + b"a" * (3 << 20) + b"\xff"
    for written in (data, gzip.compress(data)):
        message, _ = refusal(lambda: pieces(scratch, written))  # noqa: B023
        assert message == f"'text.txt' is not UTF-8 text (byte 0xff at offset {len(data) - 1})."


def test_the_messages_of_what_is_not_text(scratch):
    older = b"\xff\xd8 is how Latin-1 writes it"
    message, hint = refusal(lambda: pieces(scratch, older))
    assert message == "'text.txt' is not UTF-8 text (byte 0xff at offset 0)."
    assert hint == "encoding=auto detects the encoding of 'text.txt'."
    _, hint = refusal(lambda: pieces(scratch, older, may_be_raw=True))
    assert hint == "encoding=auto detects the encoding of 'text.txt'; tokenizer=byte reads raw bytes."
    message, hint = refusal(lambda: pieces(scratch, codecs.BOM_UTF16_LE + b"a\0b"))
    assert message == "'text.txt' is not UTF-16-LE text (byte 0x62 at offset 4)."
    assert "truncated" in hint
    message, hint = refusal(lambda: pieces(scratch, b"a\x81", encoding="cp1252"))
    assert message == "'text.txt' is not cp1252 text (byte 0x81 at offset 1)."
    assert "another encoding" in hint


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("text", ["Hello, Wörld!\n" * 1000, "ab"])
def test_unmarked_utf_16_is_refused_and_its_name_suggested(scratch, encoding, text):
    message, hint = refusal(lambda: pieces(scratch, text.encode(encoding)))
    assert "NUL" in message and f"encoding={encoding} " in hint
    assert documents(scratch, text.encode(encoding), encoding=encoding) == [text.encode()]


def test_nul_is_a_character_but_a_file_of_them_has_to_be_asked_for(scratch):
    assert documents(scratch, b"a\0bcdef") == [b"a\0bcdef"]
    _, hint = refusal(lambda: pieces(scratch, b"\0" * 100))
    assert "encoding=utf-8 " in hint
    assert documents(scratch, b"\0" * 100, encoding="utf-8") == [b"\0" * 100]
    binary = b"ELF..\x01" + b"\0" * 40 + b"\xd0\xff"
    assert "byte 0xd0 at offset 46" in refusal(lambda: pieces(scratch, binary))[0]


@pytest.mark.parametrize("asked", ["utf-8", "UTF8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("mark", ["utf-8", "utf-16-le", "utf-32-be"])
def test_a_mark_overrules_another_encoding_of_unicode(scratch, asked, mark):
    data = decoding.BYTE_ORDER_MARKS[mark] + "é\ufeff".encode(mark)
    assert documents(scratch, data, encoding=asked) == ["é\ufeff".encode()]


def test_a_mark_of_utf_16_before_a_nul_is_read_as_what_was_asked_for(scratch):
    data = codecs.BOM_UTF16_LE + "\0é".encode("utf-16-le")
    assert documents(scratch, data, encoding="utf-16") == ["\0é".encode()]


def test_an_older_encoding_overrules_a_mark(scratch):
    assert documents(scratch, codecs.BOM_UTF8 + b"a", encoding="cp1252") == ["ï»¿a".encode()]


def test_every_codec_of_python_either_reads_what_it_writes_or_is_no_text(scratch):
    known = {module.name for module in pkgutil.iter_modules(encodings.__path__)} - {"aliases", "mbcs", "oem"}
    refused = set()
    for name in sorted(known):
        try:
            SourceOptions(encoding=name)
        except UsageError:
            refused.add(name.removesuffix("_codec"))
        else:
            assert documents(scratch, "a\n".encode(name), encoding=name) == [b"a\n"], name
    text_to_text = {"rot_13", "idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined"}
    assert refused == {"base64", "bz2", "hex", "quopri", "uu", "zlib"} | text_to_text


def test_an_encoding_that_does_not_exist_is_refused_at_once():
    message, _ = refusal(lambda: SourceOptions(encoding="shift_jiss"), UsageError)
    assert message == "unknown encoding 'shift_jiss'. Did you mean 'shift_jis'?"
    assert refusal(lambda: SourceOptions(encoding="rot13"), UsageError)[0].startswith("'rot13' is not an encoding")
    for odd in ("", "a\0b", "\ud800", "é"):
        refusal(lambda: SourceOptions(encoding=odd), UsageError)  # noqa: B023


@pytest.mark.parametrize("size", READ_SIZES)
@OFTEN
@given(text=st.text("ab<|>\r\n\té"), separator=st.text("ab<|>\né", min_size=1, max_size=4))
@example(text="ababa<||>\r", separator="aba")
@example(text="aa\r\nab\r\r\n", separator="aa")
@example(text="ab\nb\nbab", separator="\nb")
def test_a_separator_divides_as_python_does_and_takes_the_line_ends_after_it(scratch, size, text, separator):
    expected = divided(text.encode(), separator.encode())
    assert documents(scratch, text.encode(), size, document_separator=separator) == expected
    if separator.endswith("\n") or not re.search("[\r\n]", text):
        assert expected == [part.encode() for part in text.split(separator) if part]


def divided(data, separator):
    first, *others = data.split(separator)
    line_ends = b"" if separator.endswith(b"\n") else b"\r\n"
    return [part for part in (first, *(other.lstrip(line_ends) for other in others)) if part]


@OFTEN
@given(data=st.binary(), separator=st.text("\x80é", min_size=1, max_size=3), size=st.sampled_from(READ_SIZES))
def test_raw_bytes_are_kept_and_divided(scratch, data, separator, size):
    data = b"x" + data
    assert b"".join(documents(scratch, data, size, raw=True)) == data
    mixed = separator.encode().join([data, data])
    expected = divided(mixed, separator.encode())
    assert documents(scratch, mixed, size, raw=True, document_separator=separator) == expected


def test_raw_with_an_encoding_is_decoded_and_gzip_is_unpacked(scratch):
    assert documents(scratch, b"\xe9", raw=True, encoding="latin-1") == ["é".encode()]
    assert documents(scratch, gzip.compress(b"\xff\0"), raw=True) == [b"\xff\0"]


def test_separators_as_people_type_them(scratch):
    stories = b"\nOne.\nTwo.\n<|endoftext|>\n\nThree.\n\n<|endoftext|>\n"
    assert documents(scratch, stories, document_separator="<|endoftext|>") == [b"\nOne.\nTwo.\n", b"Three.\n\n"]
    assert documents(scratch, b"a\n\nb\n\n\nc", document_separator=r"\n\n") == [b"a", b"b", b"\nc"]
    assert documents(scratch, b"a\tb\rc", document_separator=r"\t") == [b"a", b"b\rc"]
    refusal(lambda: SourceOptions(document_separator=""), UsageError)
    refusal(lambda: SourceOptions(document_separator="\udcff"), UsageError)


def test_empty_documents_use_no_number_and_an_empty_corpus_is_refused(tmp_path):
    for name, data in {"a": b"", "b": b"x", "c": codecs.BOM_UTF8, "d": b" ", "e": b"x"}.items():
        (tmp_path / name).write_bytes(data)
    made = {name: Source(tmp_path / name, name) for name in "abcde"}
    assert list(read(list(made.values()), SourceOptions())) == [(0, b"x"), (1, b" "), (2, b"x")]
    message, _ = refusal(lambda: list(read([made["a"]], SourceOptions())))
    assert message == "corpus 'a' has no text (0 bytes)."
    message, _ = refusal(lambda: list(read([made["a"], made["c"]], SourceOptions())))
    assert message == "corpus of 2 files has no text (0 bytes)."
    refusal(lambda: list(read([made["b"]], SourceOptions(document_separator="x"))))


@pytest.mark.parametrize("damage", [lambda packed: packed[:-9], lambda packed: packed[:30] + b"\0\1" + packed[32:]])
def test_a_damaged_gzip_file_is_named(scratch, damage):
    packed = gzip.compress(os.urandom(4000).hex().encode())
    assert refusal(lambda: pieces(scratch, damage(packed)))[0].startswith("'text.txt' is a damaged gzip file (")
    checksum = packed[:-8] + bytes(4) + packed[-4:]
    assert "CRC" in refusal(lambda: pieces(scratch, checksum))[0]


def test_an_error_of_the_machine_names_the_file(scratch):
    scratch.write_bytes(b"x")
    with mock.patch.object(Path, "open", side_effect=PermissionError(13, "Permission denied")):
        message, _ = refusal(lambda: list(read([Source(scratch, "locked.txt")], SourceOptions())))
    assert message == "cannot read 'locked.txt': Permission denied."
    with mock.patch.object(Path, "stat", side_effect=PermissionError(13, "Permission denied")):
        assert refusal(lambda: find_sources(["locked/x"]))[0] == "cannot read 'locked/x': Permission denied."


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A folder with everything that a folder may hold, as the current one."""
    monkeypatch.chdir(tmp_path)
    texts = ["b.txt", "a/z.md", "a/b/c.rst.gz", "B.TXT", "a/notes.text"]
    for name in [*texts, ".hidden.txt", ".git/x.txt", "image.png", "data.csv"]:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"x")
    Path("a/loop").symlink_to(tmp_path, target_is_directory=True)
    Path("a/b/loop").symlink_to("..", target_is_directory=True)
    Path("a/link.txt").symlink_to(tmp_path / "image.png")
    return tmp_path


def names(*paths):
    return [Path(source.name).as_posix() for source in find_sources(paths)]


IN_FOLDER = ["B.TXT", "a/b/c.rst.gz", "a/link.txt", "a/notes.text", "a/z.md", "b.txt", "data.csv"]


def test_a_folder_gives_its_text_files_sorted_and_follows_no_links_to_folders(tree):
    assert names(".") == IN_FOLDER
    assert names(str(tree)) == [str(tree / name) for name in IN_FOLDER]
    assert names("a/loop") == [f"a/loop/{name}" for name in IN_FOLDER]


def test_files_are_taken_in_the_order_given_whatever_they_end_in_and_as_often(tree):
    assert names("image.png", ".hidden.txt", "a/b", "image.png") == [
        "image.png",
        ".hidden.txt",
        "a/b/c.rst.gz",
        "image.png",
    ]


def test_globs_are_sorted_and_take_files_only(tree):
    assert names("*") == ["B.TXT", "b.txt", "data.csv", "image.png"]
    assert names("[a-b]*/*.md", "?.txt") == ["a/z.md", "b.txt"]
    assert names("**/*.t*xt") == ["a/link.txt", "a/notes.text", "b.txt"]
    assert names("a/**") == ["a/b/c.rst.gz", "a/link.txt", "a/notes.text", "a/z.md"]
    assert names(".*.txt") == [".hidden.txt"]
    assert names(str(tree / "a" / "*.md")) == [str(tree / "a/z.md")]
    assert names("a/../*.csv") == ["a/../data.csv"]
    assert refusal(lambda: names("x*.txt"), UsageError)[0] == "no file matches 'x*.txt'."


def test_a_name_that_looks_like_a_pattern_is_that_file(tree):
    Path("[ab].txt").write_bytes(b"x")
    assert names("[ab].txt") == ["[ab].txt"]


def test_what_does_not_exist_is_refused_with_the_nearest_name(tree):
    Path("shakespeare.txt").write_bytes(b"x")
    message, _ = refusal(lambda: names("shakespere.txt"), UsageError)
    assert message == "corpus 'shakespere.txt' does not exist. Did you mean 'shakespeare.txt'?"
    for missing in ("", "no/such/folder", "b.txt/x", "a\0b", "\udcff"):
        assert "does not exist." in refusal(lambda: names(missing), UsageError)[0]  # noqa: B023


def test_a_folder_without_text_says_what_it_looked_for(tree):
    Path("empty").mkdir()
    assert refusal(lambda: names("empty"))[0] == (
        "no .txt, .md, .text, .rst, .csv, .tsv, .json, .jsonl, .ndjson or .parquet file in 'empty'."
    )


def test_a_folder_that_cannot_be_read_is_refused_not_skipped(tree):
    with mock.patch("os.scandir", side_effect=PermissionError(13, "Permission denied", "a/b")):
        assert refusal(lambda: names("a"))[0] == "cannot read 'a/b': Permission denied."


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_special_files_are_refused_unopened(tree):
    os.mkfifo("pipe.txt")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        assert refusal(lambda: names("socket"))[0] == "'socket' is a socket, not a file."
    message, hint = refusal(lambda: names("pipe.txt"))
    assert message == "'pipe.txt' is a named pipe, not a file." and "standard input" in hint
    assert refusal(lambda: names(os.devnull))[0] == f"'{os.devnull}' is a device, not a file."
    assert "'pipe.txt'" in refusal(lambda: names("."))[0]


def test_standard_input_can_be_read_again_and_again():
    text = "häß\r\n".encode() * 5
    found = find_sources(["-", "-"], stdin=io.BytesIO(gzip.compress(text)))
    try:
        assert [source.name for source in found] == ["standard input"] * 2
        for _ in range(3):
            assert list(read(found, SourceOptions())) == [(0, text), (1, text)]
    finally:
        found[0].path.unlink()


def test_the_copy_of_standard_input_goes_when_the_process_ends(tmp_path):
    program = "from textgen.data.sources import *; s, = find_sources(['-']); print(*read([s], SourceOptions()), s.path)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=b"abc",
        capture_output=True,
        check=True,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert b"(0, b'abc')" in done.stdout and str(tmp_path).encode() in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_terminal_is_no_corpus(monkeypatch):
    terminal = io.BytesIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    message, hint = refusal(lambda: find_sources(["-"], stdin=terminal), UsageError)
    assert "terminal" in message and "|" in hint
    monkeypatch.setattr(sys, "stdin", None)
    refusal(lambda: find_sources(["-"]), UsageError)


@pytest.mark.parametrize("unit", ["x", "é", "語"])
def test_one_line_of_64_mib_passes_in_small_pieces_and_little_memory(scratch, unit):
    count = (64 << 20) // len(unit.encode())
    with scratch.open("wb") as file:
        for _ in range(64):
            file.write((unit * (count // 64)).encode())
    size, last = 0, b""
    tracemalloc.start()
    for _, piece in read([Source(scratch, "x")], SourceOptions(document_separator="<|endoftext|>")):
        assert len(piece) <= 1 << 20
        size, last = size + len(piece), piece
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size == scratch.stat().st_size and last.decode().strip(unit) == ""
    assert peak < 16 << 20


def test_pieces_stay_small_when_decoding_makes_more_bytes(scratch):
    found = pieces(scratch, b"\xdb" * (2 << 20), encoding="cp437")
    assert b"".join(piece for _, piece in found) == ("█" * (2 << 20)).encode()
    assert all(len(piece) <= 1 << 20 and piece.decode() for _, piece in found)


PAIRS = ["big5", "euc_kr", "gb18030", "gb2312", "iso2022_jp", "johab", "shift_jis"]


def whole(path, **options):
    return b"".join(piece for _, piece in read(find_sources([str(path)]), SourceOptions(**options)))


@pytest.mark.data
@pytest.mark.parametrize("encoding", PAIRS)
def test_real_files_of_east_asia(data_folder, encoding):
    folder = data_folder / "encodings" / "cjk"
    assert whole(folder / f"{encoding}.txt", encoding=encoding) == whole(folder / f"{encoding}-utf8.txt")
    if encoding != "iso2022_jp":  # whose bytes are all ASCII
        data = (folder / f"{encoding}.txt").read_bytes()
        with pytest.raises(UnicodeDecodeError) as expected:
            data.decode()
        assert f"at offset {expected.value.start})" in refusal(lambda: whole(folder / f"{encoding}.txt"))[0]


@pytest.mark.data
def test_one_text_in_many_forms(data_folder):
    folder = data_folder / "formats"
    text = whole(folder / "stories.utf8.txt")
    assert whole(folder / "stories.utf16le-bom.txt") == whole(folder / "stories.utf16be-bom.txt") == text
    assert whole(folder / "stories.utf8-bom.crlf.txt").replace(b"\r\n", b"\n") == text
    assert whole(folder / "stories.cp1252.crlf.txt", encoding="cp1252").replace(b"\r\n", b"\n") == text
    assert whole(folder / "stories.cr.txt").replace(b"\r", b"\n") == text
    assert "byte 0x93 at offset 44088" in refusal(lambda: whole(folder / "stories.cp1252.crlf.txt"))[0]


@pytest.mark.data
def test_real_stories_are_divided_cleanly(data_folder):
    found = find_sources([str(data_folder / "stories" / "tinystories_sample.txt")])
    stories = dict(read(found, SourceOptions(document_separator="<|endoftext|>")))
    assert len(stories) == 317 and all(a == b - 1 for a, b in pairwise(stories))
    assert not any(story.startswith(b"\n") or b"endoftext" in story for story in stories.values())
