"""Opening hostile model folders: nothing in them runs, nothing outside them is opened, and none takes long or much."""

import os
import shutil
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

from . import hostile
from .isolation import MIB, in_child, not_a_sentence, quick_folder, ready_to_fork
from .rows import Outcome, Row
from .tools import some
from .watch import Watch

SECONDS, PEAK = 5.0, 1 << 30
LIMIT, TOGETHER = 20.0, 8
"""Seconds after which a folder is taken to hang, on a machine that does other things as well; folders to a process."""
BACKENDS = ("numpy", "torch")
TEXT = "The miller's daughter went down to the water, and the water went down to the sea.\nWhat of it? 漢 é\n" * 6
MODELS = [("lstm", "char", {}), ("gru", "bpe", {"tie_word_embeddings": True}), ("rnn", "unigram", {"layer_norm": True}),
          ("lstm", "word", {"residual": True}), ("gru", "byte", {"num_layers": 2}), ("rnn", "char", {})]  # fmt: skip
WIDE = "".join(map(chr, range(0x4E00, 0x4E00 + 600)))
"""Characters of a vocabulary that is drawn from in another way than a small one."""


def make_models(where: Path) -> list[hostile.Folder]:
    """A small model folder of each kind, as textgen writes them."""
    import torch

    from textgen.data.tokenizers import train_tokenizer
    from textgen.model import CONFIG, GENERATION, ModelConfig
    from textgen.model.weights import make_model
    from textgen.storage import filesystem
    from textgen.tracing import stored_step
    from textgen.training.runs import Run

    torch.set_num_threads(1)
    torch.manual_seed(0)
    made = []
    for cell, kind, more in MODELS:
        text = TEXT + WIDE if (cell, kind) == ("rnn", "char") else TEXT
        tokenizer = train_tokenizer(kind, [[text.encode()]], 300)
        sizes = {"embedding_size": 8, "hidden_size": 8, **more}
        config = ModelConfig(tokenizer.vocab_size, cell=cell, cell_version="0", **sizes)
        model = make_model(config).eval()
        step, _ = stored_step(model, cell)
        habits = {"begin": [tokenizer.boundary], "suppress_tokens": list(tokenizer.unsampled), "sampling": {}}
        tables = {CONFIG: config.to_json(), GENERATION: habits}
        contents = {**{name: filesystem.to_json(table) for name, table in tables.items()}, **tokenizer.files(), **step}
        Run.create(where / f"{cell}-{kind}", contents).publish(model)
        made.append(hostile.read(where / f"{cell}-{kind}"))
    return made + make_stores(where)


def make_stores(where: Path) -> list[hostile.Folder]:
    """Small token stores."""
    from textgen.data import CorpusOptions
    from textgen.data.corpus import cached_store, scan_corpus

    (where / "text.txt").write_text(TEXT)
    corpora = [scan_corpus([str(where / "text.txt")], CorpusOptions(tokenizer=kind), 1) for kind in ("char", "bpe")]
    return [hostile.read(cached_store(corpus, where / "stores").folder) for corpus in corpora]


def use(folder: Path, backends: tuple[str, ...] = BACKENDS) -> list[tuple[str, str]]:
    """Open a folder with each backend and write a little with it: what came of each, and the sentence of a refusal."""
    import textgen
    from textgen.errors import TextgenError

    if folder.name == hostile.kind(0):
        return [use_store(folder)]
    ends = []
    for backend in backends:
        try:
            model = textgen.load(folder, backend)
            text = textgen.generate(model, "The sea é", max_new_tokens=6, seed=1, num_beams=1)
            model.tokenizer.decode_bytes(model.tokenizer.encode(TEXT + text))
            if backend == "numpy":
                textgen.evaluate(model, "What of it?")
            ends.append(("used", ""))
        except TextgenError as error:
            ends.append(("refused", str(error)))
    return ends


def use_store(folder: Path) -> tuple[str, str]:
    """Open a token store and look at everything in it, as `use` does."""
    from textgen.data.store import open_store
    from textgen.errors import TextgenError
    from textgen.generation.language_model import generation_config

    try:
        store = open_store(folder)
        store.tokenizer.decode_bytes(store.tokens("train").tolist() + store.tokens("validation").tolist())
        generation_config(store)
        return "used", ""
    except TextgenError as error:
        return "refused", str(error)


def judged(watch: Watch, where: Path, backends: tuple[str, ...]) -> dict[str, object]:
    """What using a folder comes to, watched: how it ended, and what is wrong with that."""
    os.chdir(where)
    watch.enter(where)
    began = time.process_time()
    ends = use(where, backends)
    busy, seen = time.process_time() - began, watch.leave()
    wrong = seen + [wrong for _, message in ends if (wrong := message and not_a_sentence(message))]
    wrong += ["code was run"] if "CANARY" in os.environ or Path("canary-was-here").exists() else []
    wrong += [f"{busy:.1f} s"] if busy > SECONDS else []
    return {"ends": [end for end, _ in ends], "wrong": wrong}


def judged_together(cases: list[Path], backends: list[tuple[str, ...]]) -> list[dict[str, object]]:
    """Several folders, one after the other, in a process that finds modules in the folder where it is."""
    sys.path.insert(0, "")
    watch = Watch()
    return [judged(watch, where, each) for where, each in zip(cases, backends, strict=True)]


def warm_up(parents: list[hostile.Folder], where: Path) -> None:
    """Import here, once, all that the cases need, what refusing needs included; and look up the plugins once."""
    from textgen import plugins

    installed = tuple(plugins.installed_entries())
    plugins.installed_entries = lambda: installed
    for number in range(120):
        case = where / hostile.kind(number)
        if hostile.spoil(parents, number, -1, case) not in ("bomb", "sparse"):
            in_this_process(case)
        shutil.rmtree(where)


def in_this_process(where: Path) -> None:
    try:
        use(where)
    except Exception:  # faults are found later, each in a process of its own
        return


def backends_of(way: str, number: int) -> tuple[str, ...]:
    """Both where they read what is spoiled in ways of their own; else torch, which is slow, now and then."""
    return BACKENDS if way in ("weights", "sizes", "code", "sparse") or number % 3 == 0 else BACKENDS[:1]


def faults_of(cases: list[Path], backends: list[tuple[str, ...]]) -> tuple[list[str], Counter[str]]:
    """What is wrong with how each folder was treated, '' for nothing, and how using them ended.

    They share a process; if that ends badly, or takes too much memory, each gets one of its own.
    """
    ending = in_child(partial(judged_together, cases, backends), LIMIT * len(cases))
    wrong = [ending.fault] if ending.fault else []
    wrong += [f"{ending.peak // MIB:,} MiB"] if ending.peak > PEAK else []
    if wrong and len(cases) > 1:
        apart = [faults_of([case], [each]) for case, each in zip(cases, backends, strict=True)]
        return [fault for (fault,), _ in apart], sum((ends for _, ends in apart), Counter[str]())
    said = ending.said if isinstance(ending.said, list) else [{"wrong": [], "ends": []} for _ in cases]
    return ["; ".join(wrong + each["wrong"]) for each in said], Counter(end for each in said for end in each["ends"])


def run(count: int, seed: int) -> Outcome:
    """So many mutants of the folders of one seed."""
    count = some(count)
    faults, ends = [], Counter[str]()
    with quick_folder() as folder:
        parents = make_models(folder)
        warm_up(parents, folder / "warm")
        ready_to_fork()
        for first in range(0, count, TOGETHER):
            numbers = range(first, min(first + TOGETHER, count))
            cases = [folder / "hostile" / str(number) / hostile.kind(number) for number in numbers]
            ways = [hostile.spoil(parents, number, seed, case) for number, case in zip(numbers, cases, strict=True)]
            found, ended = faults_of(
                cases, [backends_of(way, number) for way, number in zip(ways, numbers, strict=True)]
            )
            ends += ended
            for number, way, fault in zip(numbers, ways, found, strict=True):
                if fault:
                    faults.append(f"{way} {seed}/{number}: {fault}")
                    print(f"R14 {faults[-1]}", file=sys.stderr, flush=True)
            shutil.rmtree(folder / "hostile")
    figure = f"{count:,} folders, {ends['refused']:,} refusals, {ends['used']:,} uses, {len(faults)} faults"
    return Outcome(figure, not faults and ends["used"] > 0 and ends["refused"] > count // 2)


def run_more(count: int, seed: int) -> Outcome:
    """As `run`, other ones."""
    return run(count, seed + 1000)


ROWS = [
    Row(
        "R14",
        "hostile model folders and stores, numpy and torch",
        "2,000: no code, no open outside, no fault, <= 5 s, <= 1 GiB",
        partial(run, 2000),
        "ci",
    ),
    Row("R14b", "the same, others", "4,000 without a fault", partial(run_more, 4000), "torture"),
]


if __name__ == "__main__":
    print(run(int(sys.argv[1]), int(sys.argv[2])))
