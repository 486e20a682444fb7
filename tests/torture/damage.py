"""Bit rot: one flipped bit anywhere is refused, by the name of the file."""

from __future__ import annotations

from torture.rows import Outcome, Row
from torture.tools import begin, draws, scratch, some


def readers(root):
    """(file, how it is read) for every file of a checkpoint, a model folder and a token store."""
    import textgen
    from textgen import storage
    from textgen.data.store import open_store
    from textgen.training.runs import Run

    run = Run(root / "run")
    last = run.checkpoints()[-1]
    (store,) = [each for each in (root / ".tokens").iterdir() if not each.name.startswith(".")]

    def read_model():
        for backend in ("numpy", "torch"):
            textgen.load(run.folder, backend)

    def read_all():
        storage.verify(run.folder)

    def named(folder, read):
        return [(path, read) for path in sorted(folder.iterdir()) if path.is_file() and path.name[0] != "."]

    unused = {"README.md": read_all, "training_args.json": run.arguments, "metrics.jsonl": None}
    model = [(path, unused.get(path.name, read_model)) for path, _ in named(run.folder, None)]
    checkpoint = named(run.folder / f"checkpoint-{last}", lambda: run.load(last))
    tokens = named(store, lambda: open_store(store))
    return [(path, read) for path, read in [*model, *checkpoint, *tokens] if read is not None]


def flipped_bits(seed):
    from textgen.errors import TextgenError

    draw = draws(seed, "bits")
    with scratch() as root:
        for _ in begin(root, max_steps=4).events():
            pass
        places = readers(root)
        refused, times = 0, some(500)
        for number in range(times):
            path, read = places[number % len(places)]
            content = bytearray(path.read_bytes())
            bit = draw.randrange(8 * len(content))
            content[bit // 8] ^= 1 << bit % 8
            whole = path.read_bytes()
            path.write_bytes(content)
            try:
                read()
            except TextgenError as error:
                assert str(path) in str(error), f"seed {seed}, bit {bit} of {path.name}: {error}"
                refused += 1
            else:
                raise AssertionError(f"seed {seed}: bit {bit} of {path.name} flipped, and nobody knew")
            path.write_bytes(whole)
        for _, read in places:
            read()
    names = {path.name for path, _ in places}
    enough = refused == times and {"step.json", "manifest.json", "train.bin", "optimizer.safetensors"} <= names
    return Outcome(f"{refused} of {times} refused by name, over {len(places)} files", enough)


ROWS = [
    Row("R5", "one flipped bit in a checkpoint, a model folder, a token store", "500 of 500 refused, naming the file",
        flipped_bits, "ci"),
]  # fmt: skip
