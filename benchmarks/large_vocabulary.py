"""Training a word model with the full softmax and with a sampled softmax (`--sampled-softmax N`), for the same time.

    python benchmarks/large_vocabulary.py CORPUS --validation-file FILE [--vocab-size 10000] [--hidden-size 512]
        [--num-layers 1] [--counts 0,1000] [--seconds 200]

For each count (0 is the full softmax), the model gets as many steps as fit into the given CPU seconds at its measured
speed, with a full cosine schedule of the learning rate. The whole held-out text is then scored with the full softmax.
CPU seconds are used so that other work on the machine matters less.
"""

import argparse
import os
import platform
import tempfile
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
import torch

from textgen.tasks import options_for
from textgen.training.planner import keep_memory
from textgen.training.runs import Run
from textgen.training.start import initial_model, start
from textgen.training.trainer import Trainer

WARM, TIMED = 3, 12


def seconds_of_a_step(session, options):
    model, _ = initial_model(session.config, session.data.tokenizer, options)
    trainer = Trainer(session.run, session.data.objective(options), model, options)
    for step in range(WARM + TIMED):
        if step == WARM:
            began = time.process_time()
        trainer._step(step)
    return (time.process_time() - began) / TIMED


def trained(session, count, seconds):
    options = replace(session.options, sampled_softmax=count or None)
    step = seconds_of_a_step(session, options)
    steps = max(1, round(seconds / step))
    options = replace(options, max_steps=steps, warmup_steps=min(200, steps // 20))
    model, _ = initial_model(session.config, session.data.tokenizer, options)
    trainer = Trainer(session.run, session.data.objective(options), model, options)
    began = time.process_time()
    for number in range(steps):
        trainer._step(number)
    took = time.process_time() - began
    score = trainer.objective.evaluate(trainer.model, quick=False)
    words = steps * options.batch_size * options.seq_length
    name = f"{count:,} sampled" if count else "full softmax"
    print(f"  {name:14}  {words / took:7,.0f} words per second  {steps:6,} steps  {words / 1e6:5.2f} million words in "
          f"{took:4.0f} s  held-out perplexity {score.perplexity:7.2f}", flush=True)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus")
    parser.add_argument("--validation-file")
    parser.add_argument("--vocab-size", type=int, default=10_000)
    parser.add_argument("--hidden-size", type=int, default=512)
    parser.add_argument("--num-layers", type=int, default=1)
    parser.add_argument("--counts", default="0,1000")
    parser.add_argument("--seconds", type=float, default=200)
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    with tempfile.TemporaryDirectory() as scratch:
        options = options_for( {
            "tokenizer": "word", "vocab_size": given.vocab_size, "validation_file": given.validation_file,
            "hidden_size": given.hidden_size, "num_layers": given.num_layers, "max_steps": 1, "threads": 1,
            "dropout": 0.0, "batch_size": 20, "seq_length": 35, "output_dir": str(Path(scratch) / "run"),
            "compile": False,
        })  # fmt: skip
        session = start([given.corpus], options, time.monotonic(), dry_run=True)
        session.run = Run(Path(scratch))
        config = session.config
        print(f"{date.today()}, {platform.machine()}, one thread, torch {torch.__version__}: {config.cell}, "
              f"{config.num_layers} x {config.hidden_size}, {config.vocab_size:,} words, tied, 20 x 35")  # fmt: skip
        for count in given.counts.split(","):
            trained(session, int(count), given.seconds)


if __name__ == "__main__":
    main()
