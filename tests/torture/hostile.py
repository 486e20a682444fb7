"""Model folders as someone with bad intent would write them, every digest right: `spoil` changes one in one way."""

import copy
import hashlib
import json
import os
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from textgen import storage
from textgen.model import CONFIG, GENERATION, STEP, WEIGHTS

from . import mutants

TOKENIZER_CONFIG, PIECES_MODEL = "tokenizer_config.json", "tokenizer.model"
ODD_NAMES = ["../secret.txt", "tokenizer/../../secret.txt", "tokenizer\\..\\secret", "tokenizer\0", "tokenizer\n", ""]
ODD_NAMES += ["tokenizer.", "TOKENIZER", ".", "..", "tokenizer_extra", "model.safetensors ", "\u202etokenizer"]
TABLES = (storage.MANIFEST, CONFIG, GENERATION, TOKENIZER_CONFIG, STEP)
CODE = "import os\nos.environ['CANARY'] = 'dead'\nopen('canary-was-here', 'w').close()\n"


@dataclass
class Folder:
    """The files of a folder by name, and how its manifest is going to be written."""

    contents: dict[str, bytes]
    manifest: dict
    sealed: bool = True

    def write(self, where: Path) -> None:
        """Put the files there with a manifest whose digests are right, unless they are what was spoiled."""
        where.mkdir()
        model = self.contents.get(PIECES_MODEL)
        if model is not None and self.sealed:
            self._name_model(hashlib.sha256(model).hexdigest())
        for name, content in self.contents.items():
            if name != storage.MANIFEST:
                (where / name).write_bytes(content)
        (where / storage.MANIFEST).write_bytes(self.contents.get(storage.MANIFEST) or with_digest(self.entries()))

    def entries(self) -> dict:
        """The manifest of what is there."""
        if not self.sealed:
            return self.manifest
        listed = {name: content for name, content in self.contents.items() if name != storage.MANIFEST}
        return {**self.manifest, "files": {name: entry_of(content) for name, content in listed.items()}}

    def _name_model(self, digest: str) -> None:
        try:
            config = json.loads(self.contents[TOKENIZER_CONFIG])
            if "model_sha256" in config:
                config["model_sha256"] = digest
                self.contents[TOKENIZER_CONFIG] = mutants.json_of(config)
        except (KeyError, ValueError, TypeError, RecursionError):
            pass


def entry_of(content: bytes) -> dict:
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def with_digest(manifest: dict) -> bytes:
    """A manifest with its own digest, whatever it holds."""
    stored = json.dumps(manifest)
    seal = hashlib.sha256(stored.encode()).hexdigest()
    return json.dumps({**manifest, "sha256": seal}).encode("utf-8", "surrogatepass")


def read(folder: Path) -> Folder:
    """A folder as it was written by textgen."""
    manifest = storage.read_manifest(folder)
    return Folder({name: (folder / name).read_bytes() for name in manifest["files"]}, manifest)


# --- ways to spoil it; each takes the folder, what decides, and the place where it is going to be ---

Way = Callable[[Folder, random.Random, Path], None]


def some_bytes(folder: Folder, chance: random.Random, where: Path) -> None:
    name = chance.choice(list(folder.contents))
    folder.contents[name] = mutants.spoiled_bytes(folder.contents[name], chance)
    folder.sealed = chance.random() < 0.9
    folder.write(where)


def some_values(folder: Folder, chance: random.Random, where: Path) -> None:
    name = chance.choice([name for name in TABLES if name == storage.MANIFEST or name in folder.contents])
    content = folder.entries() if name == storage.MANIFEST else json.loads(folder.contents[name])
    for _ in range(chance.choice([1, 1, 2, 4])):
        mutants.spoil_json(content, chance)
    folder.contents[name] = with_digest(content) if name == storage.MANIFEST else mutants.json_of(content)
    folder.write(where)


def odd_table(folder: Folder, chance: random.Random, where: Path) -> None:
    name = chance.choice([name for name in TABLES if name == storage.MANIFEST or name in folder.contents])
    text = with_digest(folder.entries()) if name == storage.MANIFEST else folder.contents[name]
    folder.contents[name] = mutants.odd_json(text, chance)
    folder.write(where)


def odd_weights(folder: Folder, chance: random.Random, where: Path) -> None:
    folder.contents[WEIGHTS] = mutants.odd_tensors(folder.contents[WEIGHTS], chance)
    folder.write(where)


def odd_pieces(folder: Folder, chance: random.Random, where: Path) -> None:
    if PIECES_MODEL in folder.contents:
        folder.contents[PIECES_MODEL] = mutants.odd_pieces(folder.contents[PIECES_MODEL], chance)
    folder.write(where)


def odd_symbols(folder: Folder, chance: random.Random, where: Path) -> None:
    """A tokenizer of another size, order or kind."""
    config = json.loads(folder.contents[TOKENIZER_CONFIG])
    inner = next((name for name in ("characters", "words") if name in config), "kind")
    values = [
        "ab", "ba", "aa", "\ud800", "a\ud800", "", "\0", "".join(map(chr, range(32, 900))), ["a", "b"], ["a b"], [""],
        ["\ud800"], [1], "char", "byte", "bpe", "unigram", "word", "BPE", "os.system", ["<unk>"], ["w"] * 2, ["\n"],
        [f"w{k}" for k in range(200_000)], "".join(map(chr, range(0xE000, 0x110000))),
    ]  # fmt: skip
    config[inner] = chance.choice(values)
    if chance.random() < 0.5 and isinstance(config[inner], (str, list)):
        config["vocab_size"] = len(config[inner]) + chance.choice([0, 1, 2, 3])
    folder.contents[TOKENIZER_CONFIG] = mutants.json_of(config)
    folder.write(where)


def odd_sizes(folder: Folder, chance: random.Random, where: Path) -> None:
    """A configuration that promises another model, or names another cell."""
    config = json.loads(folder.contents[CONFIG])
    sizes = ["vocab_size", "embedding_size", "hidden_size", "num_layers"]
    for _ in range(chance.choice([1, 2, 4])):
        config[chance.choice(sizes)] = chance.choice(
            [0, 1, 2, 7, 64, 65_536, 10_000_000, 2**31, -1, 10**30, 1.0, "8", True]
        )
    if chance.random() < 0.5:
        config["cell"] = chance.choice(["rnn", "gru", "lstm", "elman", "mgu", *mutants.ODD_TEXT])
        config["cell_distribution"] = chance.choice(["textgen-lm", *mutants.ODD_TEXT])
        config["cell_version"] = chance.choice(["", "1.0", *mutants.ODD_TEXT])
    if chance.random() < 0.4:
        value = chance.choice(mutants.VALUES)
        config["cell_options"] = chance.choice(
            [{}, {"forget_bias": value}, {"nonlinearity": value}, {"x": value}, value]
        )
    if chance.random() < 0.3:
        config[chance.choice(["tie_word_embeddings", "residual", "layer_norm"])] = chance.choice(
            [True, False, 1, "true"]
        )
    folder.contents[CONFIG] = mutants.json_of(config)
    folder.write(where)


def odd_habits(folder: Folder, chance: random.Random, where: Path) -> None:
    habits = json.loads(folder.contents[GENERATION])
    options = ["temperature", "top_k", "top_p", "min_p", "stop", "seed", "num_beams", "logit_bias", "max_new_tokens"]
    options += ["repetition_penalty", "no_repeat_ngram_size", "suppress", "output", "folder", "bad_words"]
    habits["sampling"] = {
        chance.choice(options): chance.choice(mutants.VALUES) for _ in range(chance.choice([1, 2, 5]))
    }
    if chance.random() < 0.3:
        habits[chance.choice(["begin", "suppress_tokens"])] = chance.choice(
            [[0] * 300_000, [-1], [10**9], [True], "0", {}]
        )
    folder.contents[GENERATION] = mutants.json_of(habits)
    folder.write(where)


def odd_step(folder: Folder, chance: random.Random, where: Path) -> None:
    """A step that computes something else, or very much."""
    content = json.loads(folder.contents[STEP])
    for _ in range(chance.choice([0, 1, 1, 2])):
        exchange(content, chance)
    for _ in range(chance.choice([0, 1, 2])):
        mutants.spoil_json(content, chance)
    folder.contents[STEP] = mutants.json_of(content)
    folder.write(where)


def exchange(content: dict, chance: random.Random) -> None:
    """What might go unnoticed: another operation, input, number or output of a program."""
    from textgen.runtime.ops import OPERATIONS

    program = content[chance.choice(["step", "step", "initial"])]
    number = chance.randrange(len(program["nodes"]))
    node, earlier = program["nodes"][number], [f"node.{k}" for k in range(number)]
    what = chance.randrange(4)
    if what == 0 and node["op"] in OPERATIONS:
        wanted = len(OPERATIONS[node["op"]].inputs)
        node["op"] = chance.choice([name for name, other in OPERATIONS.items() if len(other.inputs) == wanted])
    elif what == 1 and node["inputs"]:
        place = chance.randrange(len(node["inputs"]))
        node["inputs"][place] = chance.choice([*earlier, "ids", "state.0", "state.1", 0.5, "inf", "-inf", 1e38])
    elif what == 2 and node.get("options"):
        node["options"][chance.choice(list(node["options"]))] = chance.choice([0, 1, 2, 0.1, "-inf", [0], [1], True])
    elif what == 3:
        place = chance.randrange(len(program["outputs"]))
        program["outputs"][place] = chance.choice([*earlier, "state.0", "ids"])


def bomb(folder: Folder, chance: random.Random, where: Path) -> None:
    """A step that would take as much time or memory as it can: large values, many of them, all of them needed."""
    content = json.loads(folder.contents[STEP])
    program, rows = content[chance.choice(["step", "initial"])], chance.choice([[], ["B"]])
    side, number = chance.choice([512, 1024, 2048, 4096, 8192]), chance.choice([1, 3, 15, 400, 6000])
    op = chance.choice(
        ["matmul", "linear", "erf", "cos", "power", "sum", "amax", "cast", "softmax", "cumsum", "layer_norm"]
    )
    large, small = [*rows, side, side], [*rows, 1, 1]
    axes = [len(rows), len(rows) + 1]

    def node(op: str, inputs: list, shape: list, dtype: str = "float32", **options: object) -> str:
        more = {"options": options} if options else {}
        program["nodes"].append({"op": op, "inputs": inputs, "is": [dtype, shape], **more})
        return f"node.{len(program['nodes']) - 1}"

    def summed(value: str) -> str:
        return node("sum", [value], small, axes=axes, keep=True)

    def made(value: str) -> str:
        if op in ("matmul", "linear"):
            return node(op, [value, node("full", [], [side, side], value=0.5)], large)
        if op in ("sum", "amax"):
            return node(op, [value], small, axes=axes, keep=True)
        options = {"softmax": {"axis": axes[-1]}, "cumsum": {"axis": axes[-1]}, "layer_norm": {"axes": 1, "eps": 1e-5}}
        inputs = [value, 1.5] if op == "power" else [value]
        return node(op, inputs, large, "int64" if op == "cast" else "float32", **options.get(op, {}))

    start = node("full", [], large, value=0.5)
    total = summed(start)
    for _ in range(number):
        value = made(start)
        value = value if op in ("sum", "amax") else node("cast", [value], large) if op == "cast" else value
        total = node("add", [total, value if op in ("sum", "amax") else summed(value)], small)
    place = chance.randrange(len(program["outputs"]))
    kinds = ([content["logits"]] if program is content["step"] else []) + content["state"]
    shape = (["B"] if rows else []) + [1] * (len(kinds[place][1]) - len(rows))
    total = node("reshape", [total], shape)
    program["outputs"][place] = node("add", [program["outputs"][place], total], kinds[place][1])
    folder.contents[STEP] = mutants.json_of(content)
    folder.write(where)


def links(folder: Folder, chance: random.Random, where: Path) -> None:
    """Names that lead elsewhere, and things that are no regular files. `secret.txt` next to it must not be opened."""
    secret, name = where.parent / "secret.txt", chance.choice([storage.MANIFEST, *folder.contents])
    folder.write(where)
    content = (where / name).read_bytes()
    secret.write_bytes(content)
    (where / name).unlink()
    forms: list[Callable[[], object]] = [
        lambda: (where / name).symlink_to(secret),
        lambda: (where / name).symlink_to("../secret.txt"),
        lambda: (where / name).symlink_to(where / CONFIG),
        lambda: (where / name).symlink_to(name),
        lambda: (where / name).symlink_to("/dev/zero"),
        lambda: (where / name).symlink_to("/proc/self/mem"),
        lambda: (where / name).symlink_to("nowhere"),
        lambda: os.mkfifo(where / name),
        lambda: socket.socket(socket.AF_UNIX).bind(os.path.relpath(where / name)),
        lambda: (where / name).mkdir(),
        lambda: None,
        lambda: (where / name).write_bytes(b""),
    ]
    chance.choice(forms)()


def names(folder: Folder, chance: random.Random, where: Path) -> None:
    """A manifest that lists files elsewhere, or lies about sizes."""
    (where.parent / "secret.txt").write_text("{}")
    folder.write(where)
    manifest = folder.entries()
    entry = entry_of(b"{}")
    for _ in range(chance.choice([1, 3])):
        name = chance.choice([*ODD_NAMES, str(where.parent / "secret.txt"), "tokenizer" + "x" * 300])
        manifest["files"][name] = copy.deepcopy(entry)
    victim = chance.choice(list(folder.contents))
    changes: list[dict] = [{}, {}, {"size": -1}, {"size": 10**30}, {"size": True}, {"size": 1.0}, {"sha256": None}]
    changes += [{"before": [entry] * 1000}, {"before": [{}]}, {"before": 7}, {"sha256": "0" * 64}, {"size": 2**40}]
    manifest["files"][victim].update(chance.choice(changes))
    (where / storage.MANIFEST).write_bytes(with_digest(manifest))


def sparse(folder: Folder, chance: random.Random, where: Path) -> None:
    """A file of gigabytes that takes no room on the disk."""
    folder.write(where)
    name = chance.choice([*folder.contents, "tokenizer_more.bin"])
    size = chance.choice([3, 20]) << 30
    with (where / name).open("ab") as file:
        file.truncate(size)
    manifest = folder.entries()
    manifest["files"][name] = {"size": size, "sha256": "0" * 64}
    (where / storage.MANIFEST).write_bytes(with_digest(manifest))


def code(folder: Folder, chance: random.Random, where: Path) -> None:
    """Pickles and Python beside or in the place of data."""
    for name in chance.sample(
        [CONFIG, GENERATION, WEIGHTS, STEP, TOKENIZER_CONFIG, PIECES_MODEL], chance.choice([0, 1, 2])
    ):
        folder.contents[name] = chance.choice(mutants.PICKLES)
    for name in ("pytorch_model.bin", "model.pt", "training_args.bin", "optimizer.pt", "tokenizer.pkl"):
        folder.contents[name] = chance.choice(mutants.PICKLES)
    folder.write(where)
    for name in (
        "lstm",
        "torch",
        "textgen_cells",
        "textgen_evil",
        "sitecustomize",
        "conftest",
        "modeling",
        "json",
        "numpy",
    ):
        (where / f"{name}.py").write_text(CODE)
    (where / "evil-1.0.dist-info").mkdir()
    (where / "evil-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    (where / "evil-1.0.dist-info" / "entry_points.txt").write_text("[textgen]\nevil = textgen_evil\n")
    (where / "textgen.toml").write_text("[sample]\nprompt = 'x'\n")


def odd_tokens(folder: Folder, chance: random.Random, where: Path) -> None:
    """Ids outside the vocabulary, or of another type than declared."""
    if STORE in folder.contents:
        size = len(folder.contents[STORE])
        odd = [b"", b"\xff" * size, bytes(size), chance.randbytes(size), b"\xff" * (size + 1), b"\0\0\0\xff" * size]
        folder.contents[STORE] = chance.choice(odd)
        types = ["<u2", "<u4", "<u4", "O", "<i8", ">u2", "V1000", "<f4", "U1", "S0", "", "<u2,<u2"]
        folder.manifest["dtype"] = chance.choice(types)
        if chance.random() < 0.7:
            folder.manifest["tokens"]["train"] = chance.choice(
                [len(folder.contents[STORE]) // 4, size // 2, 0, -1, 2**62]
            )
    folder.write(where)


WAYS: dict[str, tuple[Way, int]] = {
    "bytes": (some_bytes, 30), "values": (some_values, 30), "table": (odd_table, 10), "weights": (odd_weights, 25),
    "pieces": (odd_pieces, 25), "symbols": (odd_symbols, 8), "sizes": (odd_sizes, 12), "habits": (odd_habits, 8),
    "step": (odd_step, 25), "bomb": (bomb, 4), "links": (links, 10), "names": (names, 8), "sparse": (sparse, 2),
    "code": (code, 6), "tokens": (odd_tokens, 8),
}  # fmt: skip
"""By name, with how often each is taken."""


STORE, STORE_WAYS = "train.bin", ("bytes", "values", "table", "pieces", "symbols", "links", "names", "tokens")


def kind(number: int) -> str:
    """The name of the folder that a mutant is written to: every tenth is one of a token store."""
    return "model" if number % 10 else "store"


def spoil(parents: list[Folder], number: int, seed: int, where: Path) -> str:
    """Write mutant `number` to the folder `where`, which is new; returns in which way it is spoiled.

    What it is not to reach lies beside it, so that each needs a folder above of its own."""
    where.parent.mkdir(parents=True)
    chance = random.Random(f"{seed}/{number}")
    store = where.name == kind(0)
    names = list(STORE_WAYS if store else WAYS)
    (way,) = chance.choices(names, [WAYS[name][1] for name in names])
    fitting = [each for each in parents if store == (STORE in each.contents)]
    fitting = [each for each in fitting if way != "pieces" or PIECES_MODEL in each.contents]
    parent = copy.deepcopy(chance.choice(fitting))
    WAYS[way][0](parent, chance, where)
    return way
