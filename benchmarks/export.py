"""One model in every place where it can run: the same text, tokens per second, and the size of the export.

    python benchmarks/export.py [--cells lstm,gru] [--units 512] [--seconds 4]

Untrained models of two layers over characters write greedily: with numpy, with 8-bit weights, with torch, with
onnxruntime, in node, and in Chromium (where playwright and Chromium are installed). One thread each, one after the
other. "Same" is whether 2,000 tokens are numpy's; if not, the token where they part and how close its logits were.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import torch
from serving import LETTERS

import textgen
from textgen import plugins, threads
from textgen.data.tokenizers import CharTokenizer
from textgen.export import export
from textgen.export.html import code
from textgen.formatting import table
from textgen.generation import SampleOptions
from textgen.generation.generate import rollout
from textgen.generation.sampling import Sampler
from textgen.model import CONFIG, GENERATION, ModelConfig
from textgen.model.stack import build_model
from textgen.model.weights import TorchStepper
from textgen.storage import filesystem
from textgen.tracing import stored_step
from textgen.training.runs import Run

TOKENS = 2000
NODE = """
import { load } from "./textgen.mjs";
const model = await load(process.argv[2]);
const options = { temperature: 0, ignore_eos: true, max_new_tokens: Number(process.argv[3]) };
model.generate("the", { ...options, max_new_tokens: 50 });
const began = performance.now(), text = model.generate("the", options);
console.log(JSON.stringify({ text, seconds: (performance.now() - began) / 1000 }));
"""
IN_PAGE = """
async ([code, description, base64]) => {
  const url = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
  const { Model } = await import(url);
  const weights = Uint8Array.from(atob(base64), (each) => each.charCodeAt(0)).buffer;
  const model = new Model(description, weights), options = { temperature: 0, ignore_eos: true, max_new_tokens: 2000 };
  model.generate("the", { ...options, max_new_tokens: 50 });
  const began = performance.now(), text = model.generate("the", options);
  return { text, seconds: (performance.now() - began) / 1000 };
}
"""


def made(folder, cell, units):
    """The folder of an untrained model over characters, with weights that make its text vary."""
    tokenizer = CharTokenizer("".join(sorted(LETTERS)))
    config = ModelConfig(tokenizer.vocab_size, cell=cell, embedding_size=64, hidden_size=units, num_layers=2)
    torch.manual_seed(1)
    model = build_model(config, plugins.cell(cell)).eval()
    with torch.no_grad():
        model.readout.linear.weight.mul_(8)
    generation = {"begin": [tokenizer.boundary], "suppress_tokens": [*tokenizer.unsampled]}
    contents = {CONFIG: filesystem.to_json(config.to_json()), GENERATION: filesystem.to_json(generation)}
    step, warnings = stored_step(model, cell)
    assert not warnings, warnings
    Run.create(folder, {**contents, **tokenizer.files(), **step}).publish(model)
    return model


def in_python(model):
    """The greedy text of a loaded model, its speed, and how far ahead each choice was."""
    options = {"greedy": True, "ignore_eos": True, "max_new_tokens": TOKENS}
    textgen.generate(model, "the", **{**options, "max_new_tokens": 50})
    began = time.perf_counter()
    text = textgen.generate(model, "the", **options)
    return text, TOKENS / (time.perf_counter() - began)


def gap_at(model, place):
    """How far apart the two likeliest logits of numpy are at a token of the greedy text."""
    sampler = Sampler(SampleOptions(greedy=True), 0, (*model.unsampled, model.tokenizer.boundary))
    gaps = []

    class Watched:
        def choose(self, logits):
            first, second = np.sort(sampler.filtered(logits))[:-3:-1]
            gaps.append(float(first - second))
            return sampler.choose(logits)

    for _ in rollout(model.stepper, [model.encode_prompt("the")], [Watched()]):
        if len(gaps) > place:
            return gaps[place]
    return 0.0


class OnnxStepper:
    """The exported graph, as a stepper."""

    def __init__(self, content):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self._states = json.loads(self._session.get_modelmeta().custom_metadata_map["textgen"])["states"]

    def initial_state(self, batch):
        def shape(each):
            return [batch if size == "B" else size for size in each["shape"]]

        return tuple(
            np.broadcast_to(np.array(each["begins"], each["dtype"]), shape(each)).copy() for each in self._states
        )

    def step(self, ids, state):
        names = [each["name"] for each in self._states]
        logits, *after = self._session.run(None, {"ids": ids.astype(np.int64), **dict(zip(names, state, strict=True))})
        return logits, tuple(after)

    def forward(self, ids, state):
        for column in ids.T:
            logits, state = self.step(column, state)
        return logits, state


def in_node(folder, scratch):
    """The text and the speed of the module in node."""
    node = shutil.which("node") or shutil.which("nodejs")
    (scratch / "textgen.mjs").write_text(code())
    (scratch / "run.mjs").write_text(NODE)
    words = [node, "run.mjs", str(folder / "model.json"), str(TOKENS)]
    found = json.loads(subprocess.run(words, capture_output=True, text=True, check=True, cwd=scratch).stdout)
    return found["text"], TOKENS / found["seconds"]


def in_chromium(browser, module):
    """The text and the speed of the runtime in a page."""
    import base64

    page = browser.new_page()
    given = [code(), json.loads((module / "model.json").read_text()),
             base64.b64encode((module / "model.bin").read_bytes()).decode()]  # fmt: skip
    found = page.evaluate(IN_PAGE, given)
    page.close()
    return found["text"], TOKENS / found["seconds"]


def measure(cell, asked, browser):
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        network = made(scratch / "model", cell, asked.units)
        model = textgen.load(scratch / "model", "numpy")
        places = {"numpy": lambda: in_python(model), "int8": lambda: in_python(textgen.load(scratch / "model", "int8"))}
        places["torch"] = lambda: in_python(replace(model, stepper=TorchStepper(network)))
        (graph,) = export(scratch / "model", scratch / "model.onnx").values()
        places["onnxruntime"] = lambda: in_python(replace(model, stepper=OnnxStepper(graph)))
        module = scratch / "js"
        module.mkdir()
        for file, content in export(scratch / "model", module, "js").items():
            (module / file).write_bytes(content)
        if shutil.which("node") or shutil.which("nodejs"):
            places["node"] = lambda: in_node(module, scratch)
        if browser:
            places["Chromium"] = lambda: in_chromium(browser, module)
        found = {place: run() for place, run in places.items()}
        wanted, rows = found["numpy"][0], []
        for place, (text, speed) in found.items():
            same = "yes"
            if text != wanted:
                parts = next(k for k, (a, b) in enumerate(zip(text, wanted, strict=False)) if a != b)
                same = f"to {parts:,} ({gap_at(model, parts):.0e})" if place != "int8" else "rounded"
            rows.append({"cell": cell, "place": place, "tokens/s": f"{speed:,.0f}", "same as numpy": same})
        sizes = {dtype: len(*export(scratch / "model", scratch / "page.html", dtype=dtype).values())
                 for dtype in ("float32", "float16", "int8")}  # fmt: skip
        pages = ", ".join(f"{dtype} {size / 1e6:.1f} MB" for dtype, size in sizes.items())
        print(f"{cell}: page {pages}; graph {len(graph) / 1e6:.1f} MB", flush=True)
        return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", default="rnn,lstm,gru,mingru,minlstm,slstm,mlstm,mogrifier,lnlstm,indrnn")
    parser.add_argument("--units", type=int, default=512)
    asked = parser.parse_args()
    threads.use_threads(1)
    torch.set_num_threads(1)
    print(f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores, one thread, 2 x {asked.units}")
    rows = []
    with browser_or_none() as browser:
        for cell in asked.cells.split(","):
            rows += measure(cell, asked, browser)
    print(table(rows, list(rows[0])))


class browser_or_none:
    """Chromium, or None where it or playwright is missing."""

    def __enter__(self):
        self._driver = None
        path = os.environ.get("CHROMIUM") or shutil.which("chromium")
        try:
            from playwright.sync_api import sync_playwright
        except ImportError:
            path = None
        if path is None:
            print("Chromium or playwright is missing: left out", file=sys.stderr)
            return None
        self._driver = sync_playwright().start()
        return self._driver.chromium.launch(executable_path=path, args=["--no-sandbox"])

    def __exit__(self, *error):
        if self._driver:
            self._driver.stop()


if __name__ == "__main__":
    main()
