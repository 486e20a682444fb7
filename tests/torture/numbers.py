"""Nonsense in the numbers: nothing of it is learned or stored, and the sentence says what, where and what is good."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace

from faults import Quick, tree

from torture.refusals import complaint
from torture.rows import Outcome, Row
from torture.tools import begin, copy, draws, fork, outcome, scratch, some, wait
from torture.tools import whole_run as undisturbed


def at_call(number, function, spoil):
    """A function whose result is spoiled at one call."""
    calls = itertools.count(1)

    def spoiled(*args, **kwargs):
        result = function(*args, **kwargs)
        return spoil(result) if next(calls) == number else result

    return spoiled


def spoiled_entry(tensor, draw, value):
    """A copy with one entry that is no number."""
    copied = tensor.clone()
    copied.view(-1)[draw.randrange(copied.numel())] = value
    return copied


def poison(trainer, where, step, draw, value):
    """Nonsense at one step (from 1 after the checkpoint at hand): in the loss, a gradient or a cell's output."""
    layer = trainer.model.stack.layers[draw.randrange(2)]
    if where == "loss":
        spoil = at_call(step, lambda result: result, lambda result: (result[0] + value, result[1]))
        trainer.update._loss.register_forward_hook(lambda module, inputs, result: spoil(result))
    elif where == "gradient":
        parameter = draw.choice(list(trainer.model.parameters()))
        parameter.register_hook(at_call(step, lambda gradient: gradient, lambda g: spoiled_entry(g, draw, value)))
    else:
        spoil = at_call(step, type(layer).forward, lambda out: (spoiled_entry(out[0], draw, value), out[1]))
        layer.forward = lambda *args, **kwargs: spoil(layer, *args, **kwargs)


def stored(folder):
    return {name: content for name, content in tree(folder).items() if name != "metrics.jsonl"}


def nonsense(seed):
    """NaN and infinities at a step between two checkpoints."""
    from textgen.errors import TextgenError
    from textgen.model.weights import model_tensors, pack
    from textgen.storage import filesystem
    from textgen.training.start import resume

    draw, said_of = draws(seed, "nonsense"), {}
    cases = [*itertools.product(("loss", "gradient", "output"), (math.nan, math.inf, -math.inf), range(1, 6))]
    with scratch() as root:
        filesystem.system = Quick()
        options = {"save_steps": 6, "eval_steps": 6, "max_steps": 12, "dropout": 0.0}
        session = begin(root, "begun", **options)
        refused_rate(root)
        for event in session.events():
            session.trainer.stop = event.step == 6
        before = stored(root / "begun")
        for where, value, step in draw.sample(cases, some(len(cases))):
            session = resume(copy(root / "begun", root / "run"), {})
            poison(session.trainer, where, step, draw, value)
            case, weights = f"seed {seed}: {value} in a {where} at step {6 + step}", None
            try:
                for event in session.events():
                    weights = pack(model_tensors(session.trainer.model)) if event.step == 5 + step else weights
            except TextgenError as error:
                code, said = complaint(error)
                assert code == 1 and f" not finite at step {6 + step} " in said, f"{case}: {said}"
                assert "checkpoint-6 is intact" in said and (step == 1 or re.search(r"finite loss was [\d.]+", said)), (
                    said
                )
                assert where != "gradient" or re.search(r"gradient of \w+\.\w+", said), f"{case}: {said}"
                said_of[where] = said
            else:
                raise AssertionError(f"{case} was learned")
            assert weights is None or pack(model_tensors(session.trainer.model)) == weights, f"{case}: weights moved"
            assert stored(root / "run") == before, f"{case}: something was stored"
        told = diverging(root)
    return Outcome(f"{some(len(cases))} of {some(len(cases))} stopped before the update; {told}", len(said_of) == 3)


def refused_rate(root):
    """A learning rate of a million is refused."""
    from textgen.cli import main

    (root / "said").write_text("")
    text = str(root / "text.txt")
    code = wait(
        fork(lambda: main(["train", text, "--learning-rate", "1e6", "--output-dir", str(root / "x")]), root / "said")
    )
    said = (root / "said").read_text()
    assert code == 2 and "--learning-rate" in said and not (root / "x").exists(), said


def diverging(root):
    """A learning rate of a million that is forced upon a run never stores what is not finite."""
    import torch

    from textgen.errors import TextgenError
    from textgen.training.runs import Run

    stops = 0
    for number, optimizer in enumerate(("adamw", "sgd")):
        session = begin(root, f"million-{number}", optimizer=optimizer, max_grad_norm=1e6, learning_rate=100.0)
        rate = 1e6 if optimizer == "adamw" else 1e38
        session.trainer.options = replace(session.trainer.options, learning_rate=rate)
        try:
            list(session.events())
        except TextgenError as error:
            stops += 1
            assert "not finite" in str(error), error
        run = Run(session.run.folder)
        kept = [run.load(step).weights for step in run.checkpoints()]
        kept += [run.best_weights()] if (run.folder / "model.safetensors").exists() else []
        assert all(bool(torch.isfinite(each).all()) for one in kept for each in one.values()), optimizer
    return f"learning rate 1e6 refused; forced, {stops} of 2 stopped, nothing infinite stored"


def one_bit(tensor, draw):
    """Flip one bit of a tensor in its place."""
    import torch

    flat = tensor.detach().view(-1).view(torch.uint8)
    flat[draw.randrange(flat.numel())] ^= 1 << draw.randrange(8)


def wrong_arithmetic(seed):
    """One bit wrong, once, in what one of two equal steps leaves behind; and none, which must not be reported."""
    from textgen.errors import TextgenError
    from textgen.storage import filesystem

    draw, reported, times = draws(seed, "arithmetic"), 0, some(100)
    with scratch() as root:
        filesystem.system = Quick()
        wanted = undisturbed(root, max_steps=6)
        list(begin(root, "checked", max_steps=6, verify_steps=1).events())
        checked = outcome(root / "checked")
        assert checked == wanted, "steps that are made twice come to other bits"
        for number in range(times):
            options = {"verify_steps": 2, "max_steps": 4, "save_steps": 2, "eval_steps": 2}
            trainer = begin(root, f"run-{number}", **options).trainer
            plain, calls, victim = trainer._step, itertools.count(1), draw.choice((2, 3, 5, 6))

            def step(at, trainer=trainer, plain=plain, calls=calls, victim=victim):
                result = plain(at)
                if next(calls) == victim:
                    tensors = trainer.update.tensors() | dict(enumerate(trainer.update.state))
                    one_bit(tensors[draw.choice(list(tensors))], draw)
                return result

            trainer._step = step
            try:
                for _ in trainer.run():
                    pass
            except TextgenError as error:
                reported += "gave a different result" in str(error)
    return Outcome(f"{reported} of {times} wrong bits reported; none where there was none", reported == times)


ROWS = [
    Row("R8", "NaN and infinities in a loss, a gradient, a cell's output; a learning rate of 1e6",
        "no update, nothing stored; step, parameter, last finite loss, last good checkpoint named", nonsense, "ci"),
    Row("R8b", "--verify-steps: a wrong bit in one of two equal steps", "100 of 100 told", wrong_arithmetic, "torture"),
]  # fmt: skip
