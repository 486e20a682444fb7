"""A folder of modern notes: what buyers wrote about five products (Hu and Liu 2004), without the annotations."""

import re
from pathlib import Path
from zipfile import ZipFile

ARCHIVE = "sentiment/product-reviews/product_reviews_1.zip"
"""Where they are in the data folder."""

_MARKS = re.compile(r"^[^#]*##")
_SPACED = re.compile(r" (?=[.,;:!?)']|n't\b)|(?<=\() ")


def write_notes(data: Path, folder: Path) -> Path:
    """Write the notes as five files into a new folder; returns it. A note begins after an empty line."""
    folder.mkdir()
    with ZipFile(data / ARCHIVE) as archive:
        for name in archive.namelist():
            if name.endswith(".txt") and "README" not in name:
                lines = archive.read(name).decode("cp1252").splitlines()
                (folder / Path(name).name.replace(" ", "_")).write_text(_plain(lines))
    return folder


def _plain(lines: list[str]) -> str:
    """The text of a file with marks, one sentence in each line."""
    notes = []
    for line in lines:
        if line.startswith("*") or not line.strip():
            continue
        title = line.startswith("[t]")
        text = _SPACED.sub("", _MARKS.sub("", line.removeprefix("[t]"))).strip()
        notes.append(f"\n{text}" if title else text)
    return "\n".join(notes).strip() + "\n"
