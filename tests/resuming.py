"""Runs that are stopped and resumed."""

import torch

from textgen.training import Saved
from textgen.training.start import resume


def same_bits_when_resumed(whole, halved, step, meanwhile=lambda: None):
    """Train one session to its end, and another until it saved `step`; the other, resumed, must end with the same
    weights. `meanwhile` is called in between."""
    for _ in whole.events():
        pass
    for event in halved.events():
        if isinstance(event, Saved) and event.step == step:
            break
    meanwhile()
    again = resume(halved.run.folder, {})
    assert again.trainer.progress.step == step
    for _ in again.events():
        pass
    expected, found = whole.trainer.model.state_dict(), again.trainer.model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
