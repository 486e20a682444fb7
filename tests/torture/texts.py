"""Files that a corpus may be made of, good and bad, each with what an independent reading makes of it."""

# ruff: noqa: E501

import bz2
import csv
import gzip
import io
import json
import lzma
import random
from collections.abc import Callable
from dataclasses import dataclass, field

PIECES = [
    "word", "The sea", " ", "  ", "\n", "\n\n", "\r\n", "\r", "\t", "\x0b", "\x0c", "\x85", "\u2028", "\u2029", "\x00", "\x1b[31m",
    "<s>", "</s>", "<unk>", "<0x0A>", "<0x41>", "<|endoftext|>", "\u2581", "\u2585", "\ufeff", "\ufffe", "\uffff", "\U0001ffff",
    "\U0010ffff", "é", "e\u0301", "ﬁ", "漢字", "かな", "한국", "שלום", "مرحبا", "\u202e", "\u200b", "\u00ad", "👩‍👩‍👧‍👦", "🏳️‍🌈", "\ud7ff",
    "\ue000", "\u00a0", "\u3000", ",", '"', "'", "{", "---", "\\n", "0", "1e999",
]  # fmt: skip
CODECS = ["latin-1", "cp1252", "shift_jis", "euc_jp", "iso2022_jp", "gb18030", "big5", "koi8-r", "utf-7", "cp437", "hz"]
WIDE = ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"]
MARKS = {"utf-8": b"\xef\xbb\xbf", "utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff",
         "utf-32-le": b"\xff\xfe\0\0", "utf-32-be": b"\0\0\xfe\xff"}  # fmt: skip
WRONG = [b"\xff", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x91", b"\xc0\x80", b"\xc1\xbf", b"\xe0\x80\x80", b"\xf0\x80\x80\x80",
         b"\xed\xa0\x80", b"\xed\xa0\xbd\xed\xb8\x80", b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80", b"\x80", b"\xfe"]  # fmt: skip


@dataclass
class Case:
    """Files to write (name to content), options of reading, and the documents that there are; None: to be refused.

    `offset` is where the first byte stands that is not text, `said` what a refusal has to mention.
    """

    files: dict[str, bytes]
    documents: list[bytes] | None
    options: dict[str, object] = field(default_factory=dict)
    offset: int | None = None
    said: list[str] = field(default_factory=list)
    may_refuse: bool = False


def text(chance: random.Random, pieces: list[str] = PIECES) -> str:
    """Some text of any kind."""
    return "".join(chance.choices(pieces, k=chance.choice([1, 2, 5, 40, 300]))) or "x"


def plain(data: bytes, name: str, **options: object) -> Case:
    """One file of bytes, as any strict reader of text takes it."""
    encoding, rest = options.get("encoding") or "utf-8", data
    marked = next(
        (codec for codec, mark in sorted(MARKS.items(), key=lambda pair: -len(pair[1])) if data.startswith(mark)), None
    )
    if marked and not options.get("encoding"):
        encoding, rest = marked, data[len(MARKS[marked]) :]
    if not marked and not options.get("encoding") and data[:4096].count(0) > 0.2 * len(data[:4096]):
        return Case({name: data}, None, options, said=[name])
    try:
        document = rest.decode(encoding).removeprefix("\ufeff" if len(rest) == len(data) else "").encode()
    except UnicodeDecodeError as error:
        return Case({name: data}, None, options, error.start + len(data) - len(rest), [name])
    except UnicodeError:
        return Case({name: data}, None, options, said=[name])
    return Case({name: data}, [document] if document else None, options, said=[] if document else [name])


def good(chance: random.Random) -> Case:
    data = text(chance).encode()
    return plain(chance.choice([b"", b"", b"", MARKS["utf-8"]]) + data, "a.txt")


def special(chance: random.Random) -> Case:
    forms = ["", " ", " \t\n \r\n", "\n" * 10_000, "\r\n" * 5000, "x" * 200_000, "ab " * 70_000, "e" + "\u0301" * 10_000,
             "\u05d0\u05d1 " * 3000, "👩‍👩‍👧‍👦" * 500, "".join(map(chr, range(0xFDD0, 0xFDF0))), "\x00a" * 5, "\x00" * 3,
             "\u2581" * 5000, "<0x0A>\n<s>" * 200, "\ufeff", "\ufeff\ufeff", "\r" * 3001, "a\u2028b\u2029c\x85d" * 400]  # fmt: skip
    return plain(chance.choice(forms).encode(), "a.txt")


def wrong(chance: random.Random) -> Case:
    """A byte that is no text somewhere, also where blocks of reading end."""
    before = text(chance).encode() * chance.choice([1, 1, 3])
    if chance.random() < 0.06:
        block = chance.choice([4096, 1 << 16, 1 << 20])
        before = (b"0123456789abcde\n" * (block // 16 + 1))[: block - chance.randrange(4)]
    return plain(before + chance.choice(WRONG) + chance.choice([b"", text(chance).encode()]), "a.txt")


def noise(chance: random.Random) -> Case:
    return plain(chance.randbytes(chance.choice([1, 2, 3, 10, 1000, 5000])), "a.txt")


def raw(chance: random.Random) -> Case:
    """Bytes as they are, which byte kind learns from."""
    data = chance.choice([chance.randbytes(chance.choice([1, 50, 3000])), text(chance).encode() + chance.choice(WRONG)])
    return Case({"a.txt": data}, [data], {"tokenizer": "byte"})


def wide(chance: random.Random) -> Case:
    """UTF-16 and UTF-32, with a mark, with their name, with neither, cut off or damaged."""
    codec, content = chance.choice(WIDE), text(chance)
    data = content.encode(codec)
    if chance.random() < 0.3:
        data = data[: -chance.choice([1, 2, 3])]
    if chance.random() < 0.2:
        data += chance.choice([b"\x00\xd8", b"\xd8\x00", b"\x00\xdc\x00\x00", b"\xff\xff\xff\xff"])
    if chance.random() < 0.5:
        return plain(MARKS[codec] + data, "a.txt")
    return plain(data, "a.txt", encoding=codec) if chance.random() < 0.6 else plain(data, "a.txt")


def named(chance: random.Random) -> Case:
    """Another encoding by its name; sometimes the text is not in it."""
    codec = chance.choice(CODECS)
    data = text(chance).encode(codec, "ignore")
    if chance.random() < 0.3:
        data += chance.randbytes(4)
    return plain(data, "a.txt", encoding=codec)


PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": lambda data: gzip.compress(data, mtime=0),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def packed(chance: random.Random) -> Case:
    ending = chance.choice([*PACK])
    data = text(chance).encode()
    while plain(data, "a.txt").documents is None:  # such as NUL alone
        data = text(chance).encode()
    whole = PACK[ending](data)
    name = chance.choice(["a.txt" + ending, "a.txt", "a" + ending])
    what = chance.randrange(5)
    if what == 0:
        return Case({name: whole[: chance.randrange(11, len(whole))]}, None, said=[name])
    if what == 1:
        at = chance.randrange(10, len(whole))
        spoiled = whole[:at] + bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :]
        return Case({name: spoiled}, [unmarked(data)], said=[name], may_refuse=True)
    if what == 2:
        return Case({name: whole + whole}, [unmarked(data + data)])
    if what == 3:
        return Case({name: PACK[chance.choice([*PACK])](whole)}, None, said=[name])
    return Case({name: whole}, [unmarked(data)])


def unmarked(data: bytes) -> bytes:
    """What is read of UTF-8: all but a mark at its beginning."""
    return data.removeprefix(MARKS["utf-8"])


def table(chance: random.Random) -> Case:
    cells = [text(chance) for _ in range(chance.choice([1, 2, 30]))]
    form = chance.choice(["csv", "tsv", "jsonl"])
    if form == "jsonl":
        data = "".join(
            json.dumps({"id": k, "text": cell}, ensure_ascii=chance.random() < 0.5) + "\n"
            for k, cell in enumerate(cells)
        ).encode()
    else:
        file = io.StringIO(newline="")
        writer = csv.writer(file, delimiter="\t" if form == "tsv" else ",")
        writer.writerows([["id", "text"], *([k, cell.replace("\0", "")] for k, cell in enumerate(cells))])
        cells, data = [cell.replace("\0", "") for cell in cells], file.getvalue().encode()
    documents = [cell.encode() for cell in cells if cell]
    if chance.random() < 0.6:
        return Case({f"a.{form}": data}, documents or None, said=[f"a.{form}"])
    from .mutants import spoiled_bytes

    spoiled = [spoiled_bytes(data, chance), data + b'"', b"\xff" + data, data.replace(b"text", b"words"), data * 2,
               data[: len(data) // 2], b"[" * 100_000, b'{"text": 1}\n', b'{"text": "\\ud800"}\n', b"", b"\n\n",
               b'{"text": NaN}\n', b'{"text": "a", "text": "b"}\n', b"[1]\n", b'"x"\n', b"PAR1" + data]  # fmt: skip
    name = chance.choice([f"a.{form}", f"a.{form}", "a.parquet"])
    return Case({name: chance.choice(spoiled)}, None, said=[name], may_refuse=True)


def parquet(chance: random.Random) -> Case:
    import pyarrow
    from pyarrow import parquet

    cells = [chance.choice([None, "", text(chance)]) for _ in range(chance.choice([1, 5]))]
    file = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": pyarrow.array(cells, pyarrow.string())}), file)
    data = file.getvalue()
    if chance.random() < 0.7:
        from .mutants import spoiled_bytes

        return Case({"a.parquet": spoiled_bytes(data, chance)}, None, said=["a.parquet"], may_refuse=True)
    documents = [cell.encode() for cell in cells if cell]
    return Case({"a.parquet": data}, documents or None, said=["a.parquet"])


def separated(chance: random.Random) -> Case:
    typed = chance.choice(["<|endoftext|>", "---", "\\n\\n", "\\n", " ", "漢", "ab", "aa"])
    sign = typed.replace("\\n", "\n").encode()
    data = text(chance, [*PIECES, *[sign.decode()] * 12]).encode()
    first, *rest = data.removeprefix(MARKS["utf-8"]).split(sign)
    line_ends = b"" if sign.endswith(b"\n") else b"\r\n"
    documents = [part for part in [first, *(part.lstrip(line_ends) for part in rest)] if part]
    if data[:4096].count(0) > 0.2 * len(data[:4096]):
        return Case({"a.txt": data}, None, said=["a.txt"])
    return Case({"a.txt": data}, documents or None, {"document_separator": typed}, said=["a.txt"])


def several(chance: random.Random) -> Case:
    """A folder of files: equal ones stay as often as they are there; of a bad one the name is said."""
    same = text(chance).replace("\0", "").encode() or b"x"
    names = [f"{k:02}.{chance.choice(['txt', 'md'])}" for k in range(chance.choice([2, 5, 12]))]
    contents = {name: chance.choice([same, same, text(chance).replace("\0", "").encode(), b""]) for name in names}
    parts = [plain(content, name) for name, content in contents.items()]
    documents = [document for part in parts for document in part.documents or []]
    if chance.random() < 0.3:
        bad = chance.choice(names)
        contents[bad] = b"ok " + chance.choice(WRONG) + b" x"
        return Case(contents, None, offset=contents[bad].index(b" ") + 1, said=[bad])
    return Case(contents, documents or None)


FORMS: dict[str, tuple[Callable[[random.Random], Case], int]] = {
    "good": (good, 20), "special": (special, 12), "wrong": (wrong, 20), "noise": (noise, 6), "raw": (raw, 6), "wide": (wide, 15),
    "named": (named, 12), "packed": (packed, 10), "table": (table, 15), "parquet": (parquet, 5), "separated": (separated, 10),
    "several": (several, 8),
}  # fmt: skip
"""By name, with how often each is taken."""
