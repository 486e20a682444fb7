"""Exported models in node: the calls of a test, run by the runtime that exports hold."""

import json
import shutil
import subprocess

import pytest

from textgen.export.html import code

NODE = shutil.which("node") or shutil.which("nodejs")
PROGRAM = """
import { Noise, load } from "./textgen.mjs";
import { readFileSync } from "node:fs";
const { folder, calls } = JSON.parse(readFileSync(0, "utf8"));
const model = folder && (await load(`${folder}/model.json`));
const verbs = {
  generate: (prompt, options) => model.generate(prompt, options),
  pieces: (prompt, options) => [...model.stream(prompt, options)],
  classify: (text) => model.classify(text),
  forecast: (values, options) => model.forecast(values, options),
  encode: (text) => model.tokenizer.encode(text),
  noise: (seed, number) => {
    const noise = new Noise(seed);
    return Array.from({ length: number }, () => noise.uniform());
  },
};
const said = calls.map(([verb, ...given]) => {
  try {
    return { result: verbs[verb](...given) };
  } catch (error) {
    return { error: `${error.name}: ${error.message}` };
  }
});
process.stdout.write(JSON.stringify(said));
"""
needs_node = pytest.mark.skipif(NODE is None, reason="there is no node here.")


def in_node(scratch, folder, *calls):
    """What each call returns; an error is `{"error": ...}`. A seed beyond 2**53 is a text."""
    (scratch / "textgen.mjs").write_text(code(), encoding="utf-8")
    (scratch / "calls.mjs").write_text(PROGRAM)
    given = json.dumps({"folder": folder and str(folder), "calls": calls})
    done = subprocess.run(
        [NODE, "calls.mjs"], input=given, capture_output=True, text=True, cwd=scratch, encoding="utf-8", timeout=120
    )
    assert done.returncode == 0, done.stderr
    return [said.get("result", said) for said in json.loads(done.stdout)]
