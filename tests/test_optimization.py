"""How weights move: parts of a batch are the batch, learning rates over time, averages, and all of it resumable."""

import sys
import types

import pytest
import torch
from zoo import CELLS

from textgen.errors import TextgenError, UsageError
from textgen.evaluation import Score
from textgen.model import ModelConfig
from textgen.model.stack import Model, build_model
from textgen.tasks import TrainOptions, options_for
from textgen.tasks.objective import Objective
from textgen.tasks.regularization import Regularization
from textgen.training import Evaluated, Logged, check_training, reporters
from textgen.training.optimization import (
    Part,
    WeightAverage,
    load_optimizer_state,
    make_optimizer,
    named_optimizer_state,
)
from textgen.training.planner import ThisMachine
from textgen.training.runs import Run
from textgen.training.trainer import Trainer

SYMBOLS, LANES = 11, 6


class Noise(Objective):
    """Windows of random symbols, a function of the step alone; nothing is held out."""

    steps_per_epoch, tokens_per_step = 5, 7 * LANES

    def fresh(self, step):
        return torch.arange(LANES) == step % self.steps_per_epoch

    def window(self, step):
        ids = torch.randint(SYMBOLS, (8, LANES), generator=torch.Generator().manual_seed(step))
        return ids[:-1].int(), ids[1:]

    def loss(self, outputs, targets):
        return torch.nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    def evaluate(self, model, quick):
        return None


def trained(folder, cell="lstm", steps=7, **options):
    planned = {"batch_size": LANES, "seq_length": 7, "max_steps": 7, "learning_rate": 0.02, "warmup_steps": 2}
    every = {"logging_steps": 100, "eval_steps": 100, "save_steps": 100, "dropout": 0.3, "embedding_dropout": 0.1}
    settings = options_for({**planned, **every, **options})
    torch.manual_seed(1)
    config = ModelConfig(vocab_size=SYMBOLS, hidden_size=6, embedding_size=6, num_layers=2)
    trainer = Trainer(
        Run.create(folder / f"run-{len(list(folder.iterdir()))}", {}),
        Noise(),
        build_model(config, CELLS[cell]).double(),
        settings,
    )
    for _ in range(steps):
        trainer._step(trainer.progress.step)
        trainer.progress.step += 1
    return trainer


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("parts", [4, LANES])
def test_a_batch_in_parts_is_the_batch(tmp_path, cell, parts):
    whole = trained(tmp_path, cell, weight_drop=0.2)
    split = trained(tmp_path, cell, weight_drop=0.2, gradient_accumulation_steps=parts)
    torch.testing.assert_close(split.model.state_dict(), whole.model.state_dict(), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(split.update.state, whole.update.state, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("config", [{}, {"tie_word_embeddings": True}, {"features": 3, "outputs": 2},
                                    {"outputs": 2, "layer_norm": True}], ids=str)  # fmt: skip
def test_every_weight_of_a_model_is_learned_once(config):
    sizes = {"embedding_size": 4, "hidden_size": 6, "num_layers": 2}
    model = build_model(ModelConfig(vocab_size=SYMBOLS, **sizes, **config), CELLS["gru"])
    grouped = [id(parameter) for group in model.parameter_groups() for parameter in group["params"]]
    assert sorted(grouped) == sorted(map(id, model.parameters()))


def test_bfloat16_trains_and_keeps_weights_and_state_in_their_type(tmp_path):
    torch.set_default_dtype(torch.float32)
    trainer = trained(tmp_path, dtype="bfloat16")
    assert {t.dtype for t in (*trainer.model.parameters(), *trainer.update.state)} == {torch.float64}


def test_plateau_divides_by_four_for_each_reduction():
    part = Part(0, 100, learning_rate=1.0, warmup_steps=4)
    assert [part.rate("plateau", step, 0) for step in (0, 3, 4, 99)] == [0.2, 0.8, 1.0, 1.0]
    assert part.rate("plateau", 50, 2) == 1 / 16


def test_cosine_falls_all_the_way_and_constant_does_not():
    rates = [Part(0, 100, learning_rate=1.0, warmup_steps=10).rate("cosine", step) for step in range(100)]
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[10] == pytest.approx(1) and rates[99] < 0.03
    constant = Part(0, 100, learning_rate=1.0, warmup_steps=0)
    assert {constant.rate("constant", step) for step in range(100)} == {1.0}


def test_the_average_is_the_exponential_one_and_leaves_the_model_alone():
    model = torch.nn.Linear(2, 1, bias=False)
    average = WeightAverage(model, 0.5)
    expected = model.weight.detach().clone()
    for step in range(1, 30):
        torch.nn.init.normal_(model.weight)
        average.update(model, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    own = model.weight.detach().clone()
    with average.applied(model):
        torch.testing.assert_close(model.weight.detach(), expected)
    assert torch.equal(model.weight, own)


@pytest.mark.parametrize("options", [{"average_weights": 0.9}, {"optimizer": "sgd", "momentum": 0.9}])
def test_averages_and_momentum_survive_a_checkpoint(tmp_path, options):
    straight = trained(tmp_path, **options)
    first = trained(tmp_path, steps=3, **options)
    first._save()
    second = trained(tmp_path, steps=0, **options)
    checkpoint = first.run_folder.load(3)
    second.resume(checkpoint)
    for _ in range(4):
        second._step(second.progress.step)
        second.progress.step += 1
    pairs = zip(second.model.state_dict().values(), straight.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    if straight.update.average:
        assert all(torch.equal(t, second.update.average.tensors[n]) for n, t in straight.update.average.tensors.items())


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"momentum": 0.9}, "momentum goes with"),
        ({"lr_scheduler": "plateau", "validation_split": 0.0}, "plateau"),
        ({"batch_size": 4, "gradient_accumulation_steps": 5}, "gradient_accumulation_steps=5"),
        ({"early_stopping_patience": 1, "validation_split": 0.0}, "early_stopping_patience needs a held-out part"),
        ({"lr_scheduler": "plateu"}, "Did you mean 'plateau'"),
        ({"size": "huge"}, "tiny, small, medium"),
    ],
)
def test_options_that_do_not_go_together_are_named(options, named):
    with pytest.raises(UsageError, match=named):
        check_training(TrainOptions(**options))


def test_metrics_reach_tensorboard(tmp_path, monkeypatch):
    written = []

    class Writer:
        def __init__(self, folder):
            written.append(folder)

        def add_scalar(self, name, value, step):
            written.append((name, value, step))

        def close(self):
            written.append("closed")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer))
    with reporters(["tensorboard"], tmp_path) as report:
        report(Logged(5, 0.5, 2.0, 1.0, 0.1, 1000.0))
        report(Evaluated(5, Score(20.0, 10, 10, 10), best=True))
    assert written[0] == str(tmp_path / "tensorboard") and written[-1] == "closed"
    assert ("train/loss", 2.0, 5) in written and ("eval/nats_per_token", 2.0, 5) in written


def test_a_missing_tensorboard_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(TextgenError, match="needs tensorboard"), reporters(["tensorboard"], tmp_path):
        pass


def test_a_step_is_measured_in_the_parts_that_it_is_made_of(monkeypatch):
    shapes, forward = [], Model.forward

    def noted(model, xs, *rest):
        shapes.append(tuple(xs.shape))
        return forward(model, xs, *rest)

    monkeypatch.setattr(Model, "forward", noted)
    options = TrainOptions(batch_size=LANES, seq_length=7, gradient_accumulation_steps=4)
    config = ModelConfig(SYMBOLS, hidden_size=4, embedding_size=4)
    data = types.SimpleNamespace(objective=lambda options: Noise(), regularization=lambda *_: Regularization())
    assert ThisMachine(data, "cpu").step_seconds(config, options, 0.0) > 0
    assert shapes[:4] == [(7, 2), (7, 1), (7, 1), (7, 2)]


def test_all_that_an_optimizer_knows_lies_where_its_parameters_are():
    """The fused kernel of a GPU takes no number of steps from another device; 'meta' stands for one here."""
    config = ModelConfig(9, hidden_size=4, embedding_size=4)
    model = build_model(config, CELLS["gru"])
    optimizer = make_optimizer(model, TrainOptions())
    model(torch.zeros(3, 2, dtype=torch.long))[0].sum().backward()
    optimizer.step()
    kept = named_optimizer_state(model, optimizer)
    elsewhere = build_model(config, CELLS["gru"]).to("meta")
    resumed = make_optimizer(elsewhere, TrainOptions())
    load_optimizer_state(elsewhere, resumed, kept, "optimizer.safetensors")
    assert {tensor.device.type for tensor in named_optimizer_state(elsewhere, resumed).values()} == {"meta"}
