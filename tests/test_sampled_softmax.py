"""Laws of the sampled softmax: on average it is the softmax, it draws what it says, and it resumes to the same bits."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from resuming import same_bits_when_resumed
from torch.nn.functional import cross_entropy

from textgen.errors import UsageError
from textgen.model import ModelConfig
from textgen.model.stack import Candidates
from textgen.model.weights import make_model
from textgen.tasks import options_for
from textgen.tasks.language.objective import SampledSoftmax, inclusion
from textgen.training import Evaluated
from textgen.training.start import start

FREQUENCIES = np.array([5000, 900, 400, 90, 90, 30, 9, 3, 1, 0, 0, 60])
SYMBOLS = len(FREQUENCIES)
TEXT = " ".join(f"w{n * n % 83} w{n % 7}" for n in range(3000))


@pytest.mark.parametrize("count", [1, 2, 5, 11])
def test_probabilities_sum_to_the_count_in_the_proportions_of_frequencies(count):
    weights = np.maximum(FREQUENCIES, 1) ** 0.75
    found = inclusion(weights, count)
    assert np.isclose(found.sum(), count) and (found > 0).all() and (found <= 1).all()
    below = found < 1
    np.testing.assert_allclose((found / weights)[below], (found / weights)[below][0])


@pytest.mark.parametrize("count", [1, 2, 5, 11])
def test_each_symbol_is_drawn_as_often_as_is_said(count):
    sampled = SampledSoftmax(FREQUENCIES, count, seed=1)
    drawn = [sampled.at((shift + 0.5) / 4000) for shift in range(4000)]
    assert {len(each) for each in drawn} == {count}
    found = np.bincount(np.concatenate(drawn), minlength=SYMBOLS) / len(drawn)
    np.testing.assert_allclose(found, sampled.probabilities, atol=1e-3)


@pytest.mark.parametrize("count", [2, 5, 11])
def test_the_sum_under_the_softmax_is_right_on_average(count):
    sampled, targets = SampledSoftmax(FREQUENCIES, count, seed=1), torch.tensor([[3, 7], [3, 0]])
    logits, sums, losses = 2 * torch.randn(2, 2, SYMBOLS, dtype=torch.float64), [], []
    for step in range(2000):
        candidates, places = sampled.draw(step, targets)
        some = logits[..., candidates.ids] + candidates.corrections
        sums.append(some.exp().sum(-1))
        losses.append(cross_entropy(some.flatten(0, 1), places.flatten()))
        torch.testing.assert_close(some.gather(-1, places[..., None]), logits.gather(-1, targets[..., None]))
    whole = logits.exp().sum(-1)
    error = torch.stack(sums).std(0) / len(sums) ** 0.5
    assert ((torch.stack(sums).mean(0) - whole).abs() <= 4.5 * error + 1e-9).all()
    full = cross_entropy(logits.flatten(0, 1), targets.flatten())
    assert torch.stack(losses).mean() <= full + 0.02, "the logarithm of an estimate is low on average, never high"


def test_a_draw_hangs_on_seed_and_step_alone():
    targets = torch.tensor([[1]])
    draws = {
        (seed, step): tuple(SampledSoftmax(np.ones(5000), 50, seed).draw(step, targets)[0].ids.tolist())
        for seed in (1, 2) for step in (1, 2)
    }  # fmt: skip
    assert len(set(draws.values())) == 4
    assert draws[1, 2] == tuple(SampledSoftmax(np.ones(5000), 50, 1).draw(2, targets)[0].ids.tolist())


def model(tied):
    torch.manual_seed(1)
    config = ModelConfig(SYMBOLS, "rnn", embedding_size=6, hidden_size=8, num_layers=1, tie_word_embeddings=tied)
    return make_model(config)


def gradients(model, inputs, targets, candidates):
    model.zero_grad()
    logits, _ = model(inputs, None, None, candidates)
    cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("tied", [False, True])
def test_with_all_symbols_as_candidates_it_is_the_softmax(tied):
    net, ids = model(tied), torch.randint(SYMBOLS, (7, 3))
    everything = Candidates(torch.arange(SYMBOLS), torch.zeros(SYMBOLS))
    whole = {name: gradient.clone() for name, gradient in gradients(net, ids[:-1], ids[1:], None).items()}
    for name, gradient in gradients(net, ids[:-1], ids[1:], everything).items():
        torch.testing.assert_close(gradient, whole[name])


def test_only_candidates_are_moved():
    net, ids = model(tied=False), torch.tensor([[1, 2], [3, 1], [2, 3]])
    candidates, places = SampledSoftmax(FREQUENCIES, 4, seed=1).draw(5, ids[1:])
    found = gradients(net, ids[:-1], places, candidates)
    inside = torch.zeros(SYMBOLS, dtype=torch.bool)
    inside[candidates.ids] = True
    assert not inside.all() and inside[ids[1:]].all()
    for name in ("readout.linear.weight", "readout.linear.bias"):
        moved = found[name].reshape(SYMBOLS, -1).abs().sum(1) > 0
        assert torch.equal(moved, inside), name
    assert torch.equal(found["encoder.weight"].abs().sum(1) > 0, torch.isin(torch.arange(SYMBOLS), ids[:-1]))


# --- whole runs ---


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path / "text.txt"


def begin(text, **given):
    options = {"tokenizer": "word", "sampled_softmax": 20, "hidden_size": 16, "max_steps": 12,
               "batch_size": 4, "seq_length": 16, "eval_steps": 6, "cell": "gru", "threads": 1}  # fmt: skip
    options |= {"output_dir": str(text.parent / f"run{len(given)}{'x'.join(map(str, given.values()))}"), **given}
    return start([str(text)], options_for(options), time.monotonic())


def test_a_resumed_run_has_the_same_bits(text):
    same_bits_when_resumed(begin(text), begin(text, seq_length=16), 6)


def test_it_trains_and_what_is_held_out_is_scored_by_the_whole_softmax(text):
    session = begin(text, max_steps=120, learning_rate=0.01, eval_steps=120)
    scores = [event.score.nats_per_token for event in session.events() if isinstance(event, Evaluated)]
    assert scores[-1] < 0.8 * np.log(session.config.vocab_size)
    task = session.trainer.objective
    assert task.evaluate(session.trainer.model, quick=False) == replace(task, sampled=None).evaluate(
        session.trainer.model, quick=False
    )


def test_a_batch_in_parts_has_the_candidates_of_the_whole(text):
    losses = []
    for parts in (1, 2):
        trainer = begin(text, gradient_accumulation_steps=parts, dropout=0.0).trainer
        losses.append(trainer._step(3))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("more", [0, 5000])
def test_no_fewer_than_there_are_is_refused(text, more):
    symbols = begin(text).config.vocab_size
    with pytest.raises(UsageError, match=rf"{symbols + more:,} must be less .* \({symbols}\)\.$") as caught:
        begin(text, sampled_softmax=symbols + more)
    assert "omit it" in caught.value.hint
