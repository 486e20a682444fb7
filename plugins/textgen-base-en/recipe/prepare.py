"""Prepare the training text of base-en: read the listed texts, clean them, and vary their form.

    python recipe/prepare.py DATA OUT

DATA holds the archives that `sources.tsv` names. Each text is checked against its SHA-256, so that nothing else can
get in. OUT receives `train.jsonl` and `held-out.jsonl`, one passage in each line.

People's own texts come with lines wrapped or not, with straight quotes or curly ones. So a text is cut into passages
of some thirty kilobytes, and each passage gets one of these forms. Everything is drawn from a fixed seed: the same
texts give the same files.
"""

import csv
import hashlib
import json
import random
import re
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

SOURCES = Path(__file__).parent / "sources.tsv"
SEED = 1
PASSAGE = 30_000
"""Characters of a passage, to the end of its last paragraph."""
HELD_OUT = 60
"""One in so many passages is held out."""
MODERN_TIMES = 2
"""How often a modern text occurs, in different forms: there are few of them, and people write like them."""
UNWRAPPED, CURLY, PLAIN = 0.6, 0.35, 0.7
"""The shares of passages whose lines are joined, whose quotes are curly, and whose italics lose their underscores."""
VERSE = 48
"""Paragraphs whose lines are mostly shorter than this stay as they are: verse, lists, headings."""
LEFT_OUT = re.compile(r"\b(nigger|darky|darkies|darkey|pickaninn(y|ies))s?\b", re.IGNORECASE)
"""Paragraphs with these words are left out."""


def sources() -> list[dict[str, str]]:
    """The rows of sources.tsv."""
    with SOURCES.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def texts(data: Path) -> Iterator[tuple[dict[str, str], str]]:
    """Each source with its text, in the order of the table. Raises ValueError for a text that is not the listed one."""
    rows = sources()
    for archive in dict.fromkeys(row["archive"] for row in rows):
        with tarfile.open(data / f"{archive}.tar.xz") as packed:
            contents = {member.name: packed.extractfile(member).read() for member in packed if member.isfile()}
        for row in rows:
            if row["archive"] == archive:
                content = contents[row["file"]]
                if hashlib.sha256(content).hexdigest() != row["sha256"]:
                    raise ValueError(f"{archive}: {row['file']} is not the text that sources.tsv lists")
                yield row, content.decode("utf-8")


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a text, without the ones left out."""
    found = re.split(r"\n[ \t]*\n\s*?(?=\S|[ \t])", text.replace("\r\n", "\n").replace("\ufeff", ""))
    kept = ["\n".join(line.rstrip() for line in paragraph.strip("\n").split("\n")) for paragraph in found]
    return [each for each in kept if each.strip() and not LEFT_OUT.search(each)]


def passages(text: str) -> Iterator[list[str]]:
    """The paragraphs of a text in groups of about `PASSAGE` characters."""
    group: list[str] = []
    for paragraph in paragraphs(text):
        group.append(paragraph)
        if sum(map(len, group)) >= PASSAGE:
            yield group
            group = []
    if group:
        yield group


def joined(paragraph: str) -> str:
    """A paragraph on one line, unless it is verse or a list."""
    lines = paragraph.split("\n")
    if sum(len(line) < VERSE for line in lines[:-1]) * 2 > len(lines) - 1:
        return paragraph
    return " ".join(line.strip() for line in lines)


def curly(text: str) -> str:
    """Straight quotes and double hyphens as typographic ones."""
    text = re.sub(r'(^|[\s(\[—-])"', "\\1\u201c", text).replace('"', "\u201d")
    text = re.sub(r"(^|[\s(\[\u201c—-])'", "\\1\u2018", text).replace("'", "\u2019")
    return re.sub(r" ?--+ ?", "\u2014", text)


def straight(text: str) -> str:
    """Typographic quotes and dashes as they are typed on a keyboard."""
    return re.sub("[\u201c\u201d]", '"', re.sub("[\u2018\u2019]", "'", text)).replace("\u2014", "--")


def formed(group: list[str], random: random.Random) -> str:
    """A passage in a form that is drawn."""
    unwrapped, are_curly, plain = (random.random() < share for share in (UNWRAPPED, CURLY, PLAIN))
    text = "\n\n".join(map(joined, group) if unwrapped else group)
    text = curly(straight(text)) if are_curly else straight(text)
    return re.sub(r"(?<!\w)_([^_\n]+(?:\n[^_\n]+)?)_(?!\w)", r"\1", text) if plain else text


def main() -> None:
    data, out = Path(sys.argv[1]), Path(sys.argv[2])
    draw = random.Random(SEED)
    parts: dict[str, list[str]] = {"train": [], "held-out": []}
    for row, text in texts(data):
        for group in passages(text):
            if draw.randrange(HELD_OUT) == 0:
                parts["held-out"].append(formed(group, draw))
            else:
                times = MODERN_TIMES if row["archive"] == "modern" else 1
                parts["train"] += [formed(group, draw) for _ in range(times)]
    draw.shuffle(parts["train"])
    out.mkdir(parents=True, exist_ok=True)
    for part, found in parts.items():
        lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in found)
        (out / f"{part}.jsonl").write_text(lines, encoding="utf-8", newline="\n")
        print(f"{part}: {len(found):,} passages, {sum(map(len, found)) / 1e6:.1f} M characters")


if __name__ == "__main__":
    main()
