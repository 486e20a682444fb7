"""The same request twice: the same bits in every file, the same text, whole or in pieces, flags in any order."""

from __future__ import annotations

import json
import os

from torture.rows import Outcome, Row
from torture.tools import TEXT, TINY, draws, fork, scratch, some, wait

SAMPLING = ["--prompt", "the cat", "--seed", "7", "--max-new-tokens", "60", "--temperature", "0.9", "--top-p", "0.95"]


def in_pairs(flags, draw):
    """The same flags with their values, in another order."""
    pairs = [flags[k : k + 2] for k in range(0, len(flags), 2)]
    return [each for pair in draw.sample(pairs, len(pairs)) for each in pair]


def printed(arguments, place):
    """What a command writes to standard output, run in a folder."""
    from textgen.cli import main

    out = place / "out"

    def call():
        os.chdir(place)
        handle = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(handle, 1)
        return main(arguments)

    (place / "said").write_text("")
    code = wait(fork(call, place / "said"))
    assert code == 0, f"{' '.join(arguments)}: {(place / 'said').read_text()}"
    return out.read_bytes()


def contents(folder):
    """Every file of a run by its name, without what the clock writes: the speed in metrics.jsonl."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    lines = [json.loads(line) for line in found.pop("metrics.jsonl").splitlines()]
    return found, [{name: value for name, value in line.items() if name != "tokens_per_second"} for line in lines]


def twice(seed):
    import textgen

    draw = draws(seed, "twice")
    flags = [
        each
        for name, value in TINY.items()
        if name != "compile"
        for each in (f"--{name.replace('_', '-')}", str(value))
    ]
    with scratch() as root:
        (root / "text.txt").write_text(TEXT * 3)
        made = []
        for number in range(1 + some(4)):
            (place := root / str(number)).mkdir()
            order = flags if number == 0 else in_pairs(flags, draw)
            printed(["train", str(root / "text.txt"), "--no-compile", *order, "--output-dir", "run"], place)
            made.append(contents(place / "run"))
        assert all(each == made[0] for each in made), "two runs of one configuration differ"
        texts = 0
        for backend in ("numpy", "torch"):
            given = ["sample", "-m", "run", "--backend", backend]
            orders = [SAMPLING, *(in_pairs(SAMPLING, draw) for _ in range(some(4)))]
            first, *others = [printed([*given, *order], root / "0") for order in orders]
            assert len(first) > 20 and all(text == first for text in others), f"{backend}: two texts of one seed"
            model = textgen.load(root / "0" / "run", backend)
            for each in range(some(10)):
                options = {"seed": each, "max_new_tokens": 50, "temperature": 1.1}
                pieces = list(textgen.stream(model, "the", **options))
                assert "".join(pieces) == textgen.generate(model, "the", **options) and len(pieces) > 3, backend
                texts += 1
    told = f"{len(made)} runs alike in {len(made[0][0]) + 1} files; {2 * len(orders)} and {texts} texts alike"
    return Outcome(told, len(made[0][0]) > 12)


ROWS = [
    Row("R21", "one configuration and one seed, several times, flags in any order",
        "equal files but for the speed; equal text; stream equal to whole", twice, "ci"),
]  # fmt: skip
