"""A light install runs models of every task: `python -m tests.light ENVIRONMENT`, which holds the built wheel alone.

Models are trained here, with this interpreter. Then the environment, which has no torch, samples, evaluates, predicts,
exports and serves. Prints one line for each command, and fails at the first that does.
"""

import json
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

MOST_MB = 90
TOOLS = ("pip", "setuptools", "pkg_resources", "_distutils_hack", "distutils-precedence")
TINY = ["--max-steps", "4", "--hidden-size", "16", "--threads", "1", "--seed", "1", "--sample-steps", "0"]
DAYS = [f"2026-{m:02}-{d:02},{d + m}\n" for m in (1, 3, 5, 7, 8) for d in range(1, 32)]
FILES = {
    "notes.txt": "the fox ran to the den, and the hen ran home; then it slept.\n" * 60,
    "pairs.csv": "prompt,completion\n" + "say fox,fox!\nsay hen,hen!\nsay den,den!\n" * 20,
    "labels.csv": "text,label\n" + "a fine day,pos\na dull day,neg\n" * 20,
    "sales.csv": "day,sales\n" + "".join(DAYS[:124]),
    "more.csv": "day,sales\n" + "".join(DAYS),
}
MODELS = {
    "notes": ["notes.txt", "--init-from", "none"],
    "other": ["notes.txt", "--cell", "mogrifier", "--tokenizer", "char"],
    "pairs": ["pairs.csv", "--prompt-column", "prompt", "--completion-column", "completion", "--tokenizer", "char"],
    "labels": ["labels.csv", "--label-column", "label"],
    "sales": ["sales.csv", "--target-column", "sales", "--horizon", "3"],
}
COMMANDS = [
    *("sample -m notes -n 20 --seed 1", "sample -m other -n 20 --seed 1", "sample -m pairs -p say --seed 1"),
    *("evaluate -m notes notes.txt", "evaluate -m notes", "evaluate -m pairs pairs.csv", "evaluate -m pairs"),
    *("predict -m labels labels.csv", "evaluate -m labels labels.csv", "evaluate -m labels"),
    *("predict -m sales sales.csv", "evaluate -m sales more.csv", "evaluate -m sales"),
    *("compress notes.txt -m notes", "export other page.html", "quantize notes small --dtype float16", "cells"),
]


def sizes_of(environment):
    """The installed packages in MB, without those of the empty environment: their files, and all with bytecode."""
    (packages,) = environment.glob("lib/python*/site-packages")
    parts = [path for path in packages.iterdir() if not path.name.startswith(TOOLS)]
    files = [file for part in parts for file in [part, *part.rglob("*")] if file.is_file()]
    return (
        sum(file.stat().st_size for file in files if file.suffix != ".pyc") / 1e6,
        sum(file.stat().st_size for file in files) / 1e6,
    )


def main(environment):
    command, python = environment / "bin" / "textgen", environment / "bin" / "python"
    size, compiled = sizes_of(environment)
    print(f"{size:.1f} MB installed (at most {MOST_MB}), {compiled:.1f} MB with bytecode", flush=True)
    assert size <= MOST_MB
    assert subprocess.run([python, "-c", "import torch"], capture_output=True).returncode != 0, "torch is installed"
    with tempfile.TemporaryDirectory() as scratch:
        for name, content in FILES.items():
            (Path(scratch) / name).write_text(content)
        for name, words in MODELS.items():
            ours = [sys.executable, "-m", "textgen", "train", *words, *TINY, "--output-dir", name]
            subprocess.run(ours, cwd=scratch, check=True, capture_output=True)
        for words in COMMANDS:
            done = subprocess.run([command, *words.split()], cwd=scratch, capture_output=True, text=True)
            print(f"textgen {words}: {done.returncode}", flush=True)
            assert done.returncode == 0, done.stderr
        refused = subprocess.run([command, "train", "notes.txt"], cwd=scratch, capture_output=True, text=True)
        assert refused.stderr.splitlines()[-1] == "Hint: pip install 'textgen-lm[train]'", refused.stderr
        (wheel,) = (Path("build") / "dist").glob("*.whl")
        subprocess.run([python, "-m", "pip", "install", "--quiet", f"{wheel.resolve()}[serve]"], check=True)
        words = [command, "serve", "notes", "labels", "sales", "--port", "0"]
        server = subprocess.Popen(words, cwd=scratch, stdout=subprocess.PIPE, text=True)
        try:
            url = server.stdout.readline().strip()
            body = json.dumps({"model": "notes", "prompt": "the", "max_tokens": 5}).encode()
            request = urllib.request.Request(f"{url}/v1/completions", body, {"content-type": "application/json"})
            with urllib.request.urlopen(request, timeout=60) as answer:
                print("served:", json.load(answer)["choices"][0]["text"].strip() or "(blank)", flush=True)
        finally:
            server.terminate()
            server.wait(30)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
