"""Feeding it anything: every corpus comes back byte for byte from its tokens, or is refused with its place."""

import os
import random
import re
import socket
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

from textgen.data import CorpusOptions, recipes
from textgen.data.corpus import cached_store, scan_corpus
from textgen.data.recipes import TRAIN, VALIDATION

from . import texts
from .isolation import Ending, in_child, quick_folder, ready_to_fork, without_privileges
from .rows import Outcome, Row
from .tools import some

SECONDS, LIMIT = 10.0, 60.0
"""Of the processor, and by the clock: on a machine that does other things as well."""
TOKENIZER_KINDS = ["char"] * 6 + [None, "bpe", "unigram"]
NOT_ENOUGH = ("too short to learn", "no text to learn")
OFFSET = re.compile(r"at offset (\d+)")


def tokens_of(paths: list[str], options: CorpusOptions, cache: Path) -> dict[str, object]:
    """The documents that a corpus' tokens stand for, made twice from nothing, and whether both stores are equal."""
    stores = [cached_store(scan_corpus(paths, options, 1), cache / name) for name in ("one", "two")]
    trees = [{path.name: path.read_bytes() for path in store.folder.iterdir()} for store in stores]
    store, found = stores[0], {}
    for part in (TRAIN, VALIDATION):
        ids = store.tokens(part).tolist()
        begins = [k for k, id in enumerate(ids) if id == store.tokenizer.boundary] + [len(ids)]
        found[part] = [store.tokenizer.decode_bytes(ids[a + 1 : b]) for a, b in pairwise(begins)]
        assert not ids or ids[0] == store.tokenizer.boundary
    return {"equal": trees[0] == trees[1], "documents": store.about["corpus_documents"], **found}


def made_of(documents: list[bytes], train: list[bytes], held_out: list[bytes]) -> bool:
    """Whether each document is the next one to train on, the next one held out, or the beginning and the end of it."""
    first = second = 0
    for text in documents:
        begin, end = train[first : first + 1], held_out[second : second + 1]
        if [text] == begin:
            first += 1
        elif [text] == end:
            second += 1
        elif begin and end and text == begin[0] + end[0]:
            first, second = first + 1, second + 1
        else:
            return False
    return (first, second) == (len(train), len(held_out))


def compared(paths: list[str], options: CorpusOptions, cache: Path, expected: list[bytes] | None) -> list[str]:
    """What is wrong with the tokens of a corpus that was accepted."""
    found = tokens_of(paths, options, cache)
    train, held_out = found[TRAIN], found[VALIDATION]
    wrong = [] if found["equal"] else ["a second run makes another store"]
    if expected is None:
        return wrong
    same = made_of(expected, train, held_out)
    wrong += [] if same else [f"text is changed: {train[:3]!r:.200} for {expected[:3]!r:.200}"]
    return wrong + (
        [] if found["documents"] == len(expected) else [f"{found['documents']} documents, not {len(expected)}"]
    )


def refusal_of(ending: Ending, case: texts.Case) -> list[str]:
    """What is wrong with a refusal."""
    if any(reason in ending.refusal for reason in NOT_ENOUGH):
        return [] if ending.hint else ["a refusal without a remedy"]
    if case.documents is not None and not case.may_refuse:
        return [f"refused what is text: {ending.refusal}"]
    wrong = [f"{name!r} is not in {ending.refusal!r}" for name in case.said if name not in ending.refusal]
    if case.offset is not None:
        place = OFFSET.search(ending.refusal)
        if place is None or int(place[1]) != case.offset:
            wrong.append(f"offset {case.offset} is not in {ending.refusal!r}")
        wrong += [] if ending.hint else [f"no remedy with {ending.refusal!r}"]
    return wrong


def try_one(number: int, seed: int, where: Path) -> tuple[str, list[str], str]:
    """The form of a corpus, what is wrong with how it was treated, and how that ended."""
    chance = random.Random(f"{seed}/{number}")
    (form,) = chance.choices(list(texts.FORMS), [weight for _, weight in texts.FORMS.values()])
    case = texts.FORMS[form][0](chance)
    for name, content in case.files.items():
        (where / "corpus" / name).write_bytes(content)
    options = CorpusOptions(
        **{"tokenizer": chance.choice(TOKENIZER_KINDS), "validation_split": chance.choice([0.0, 0.1]), **case.options}
    )
    whole = len(case.files) > 1 or (chance.random() < 0.1 and "a.txt" in case.files)
    paths = [str(where / "corpus")] if whole else [str(where / "corpus" / name) for name in case.files]
    ending = in_child(partial(compared, paths, options, where / "cache", case.documents), LIMIT)
    return form, verdict(ending, case), "refused" if ending.refusal else "accepted"


def verdict(ending: Ending, case: texts.Case) -> list[str]:
    if ending.fault or ending.busy > SECONDS:
        return [ending.fault or f"{ending.busy:.1f} s"]
    if ending.refusal:
        return refusal_of(ending, case)
    wrong = list(ending.said) if isinstance(ending.said, list) else []
    return wrong + (
        [f"accepted what is no text: {list(case.files)}"] if case.documents is None and not case.may_refuse else []
    )


# --- what is no file, or none that can be read ---

Setting = Callable[[Path], str]


def _odd_places() -> dict[str, tuple[Setting, str | None]]:
    """What to make of a folder and name as a corpus, and what a refusal has to say; None: it is text."""

    def made(function: Callable[[Path], object], name: str = "a.txt") -> Setting:
        def make(folder: Path) -> str:
            function(folder / name)
            return str(folder / name)

        return make

    def text(path: Path) -> None:
        path.write_bytes(b"The sea.\n" * 9)

    def with_link(folder: Path) -> str:
        text(folder / "a.txt")
        (folder / "loop").symlink_to(folder)
        (folder / "b.txt").symlink_to("a.txt")
        return str(folder)

    def broken_link(folder: Path) -> str:
        text(folder / "a.txt")
        (folder / "b.txt").symlink_to("nowhere")
        return str(folder)

    def unreadable(path: Path) -> None:
        text(path)
        path.chmod(0)

    return {
        "a pipe": (made(os.mkfifo), "is a named pipe"),
        "a pipe in a folder": (lambda folder: (os.mkfifo(folder / "a.txt"), str(folder))[1], "is a named pipe"),
        "a socket": (made(lambda path: socket.socket(socket.AF_UNIX).bind(str(path))), "is a socket"),
        "a device": (lambda folder: "/dev/zero", "is a device"),
        "an empty folder": (lambda folder: str(folder), "no .txt"),
        "an unreadable file": (made(unreadable), "Permission denied"),
        "an unreadable folder": (made(lambda path: (path.mkdir(), path.chmod(0))), "Permission denied"),
        "nothing": (lambda folder: str(folder / "nowhere.txt"), "does not exist"),
        "no name": (lambda folder: "", "does not exist"),
        "a name with NUL": (lambda folder: "a\0b", "does not exist"),
        "a name too long": (lambda folder: str(folder / ("x" * 300)), "too long"),
        "a link to nothing": (made(lambda path: path.symlink_to("nowhere")), "does not exist"),
        "a link to itself": (made(lambda path: path.symlink_to("a.txt")), "symbolic links"),
        "a link to a file": (with_link, None),
        "a link to nothing in a folder": (broken_link, "b.txt"),
        "a pattern as a name": (made(text, "[a]*?.txt"), None),
        "a name of several lines": (made(text, "a\nb\x1b[31m.txt"), None),
        "a name that is no text": (made(text, "a\udcff.txt"), None),
        "a name like an option": (made(text, "--help"), None),
        "a pattern of nothing": (lambda folder: str(folder / "*.txt"), "no file matches"),
        "a pattern of one letter": (lambda folder: str(folder / "[a"), "no file matches"),
        "a file as a folder": (lambda folder: (text(folder / "a"), str(folder / "a" / "b"))[1], "does not exist"),
    }


UNREADABLE = ("an unreadable file", "an unreadable folder")


def _can_lose_privileges() -> bool:
    """Whether textgen itself can be read by whoever cannot read everything."""
    without_privileges()
    return os.access(recipes.home(), os.R_OK)


def try_place(name: str, where: Path) -> list[str]:
    """What is wrong with how something that may be no file was treated."""
    if name in UNREADABLE and not in_child(_can_lose_privileges, LIMIT).said:
        return []
    setting, said = _odd_places()[name]
    path = setting(where / "corpus")
    (where / "cache").chmod(0o777)
    expected = None if said else [b"The sea.\n" * 9] * (2 if name == "a link to a file" else 1)

    def judged() -> list[str]:
        if name in UNREADABLE:
            without_privileges()
        return compared([path], CorpusOptions(tokenizer="char"), where / "cache", expected)

    ending = in_child(judged, LIMIT)
    if said is None:
        return [ending.fault or ending.refusal] if ending.fault or ending.refusal else list(ending.said or [])
    return [] if not ending.fault and said in ending.refusal else [ending.fault or ending.refusal or "accepted"]


def run(count: int, seed: int) -> Outcome:
    """So many corpora of one seed, and every odd place."""
    count = some(count)
    faults, ends = [], Counter[str]()
    with quick_folder() as folder:
        folder.chmod(0o755)
        warm_up(fresh(folder / "warm"))
        ready_to_fork()
        names = [*range(count), *_odd_places()]
        for number in names:
            where = fresh(folder / f"{number}".replace(" ", "-"))
            if isinstance(number, int):
                form, wrong, ended = try_one(number, seed, where)
            else:
                form, wrong, ended = number, try_place(number, where), "places"
            ends[ended] += 1
            os.system(f"chmod -R u+rwX {where}") if form in UNREADABLE else None
            if wrong:
                faults.append(f"{form} {seed}/{number}: {'; '.join(wrong)}")
                print(f"R12 {faults[-1]}", file=sys.stderr, flush=True)
            remove(where)
    figure = f"{len(names):,} corpora, {ends['accepted']:,} accepted, {ends['refused']:,} refused, {len(faults)} faults"
    return Outcome(figure, not faults and ends["accepted"] > count // 4 and ends["refused"] > count // 10)


def warm_up(where: Path) -> None:
    """Import here, once, what the cases need."""
    import pyarrow.parquet  # noqa: F401
    import sentencepiece  # noqa: F401

    for kind in ("char", "bpe"):
        (where / "corpus" / "a.txt").write_bytes(b"the sea and the mill\n" * 50)
        tokens_of([str(where / "corpus")], CorpusOptions(tokenizer=kind), where / "cache" / kind)


def fresh(where: Path) -> Path:
    (where / "corpus").mkdir(parents=True)
    (where / "cache").mkdir()
    return where


def remove(where: Path) -> None:
    import shutil

    shutil.rmtree(where)


def run_more(count: int, seed: int) -> Outcome:
    """As `run`, other ones."""
    return run(count, seed + 1000)


ROWS = [
    Row(
        "R12",
        "corpora of any kind",
        "1,000: back byte for byte, or refused with file, offset and remedy; 10 s each",
        partial(run, 1000),
        "ci",
    ),
    Row("R12b", "the same, others", "2,000 without a fault", partial(run_more, 2000), "torture"),
]


if __name__ == "__main__":
    print(run(int(sys.argv[1]), int(sys.argv[2])))
