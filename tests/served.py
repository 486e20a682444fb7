"""A server in this process for tests that talk to one, and small models for it to serve."""

import json
import threading
import time
from contextlib import contextmanager

import httpx
import uvicorn

import textgen
from textgen.serve.connections import Connection

FILES = {
    "notes.txt": "the fox ran to the den, and the hen ran home; then it slept.\n" * 60,
    "pairs.jsonl": "".join(
        json.dumps({"prompt": f"say {word}", "completion": f"{word}!"}) + "\n" for word in ("fox", "hen", "den") * 20
    ),
    "labels.csv": "text,label\n" + "a fine day,pos\na dull day,neg\n" * 20,
}
MODELS = {
    "notes": ("notes.txt", {}),
    "other": ("notes.txt", {"seed": 2}),
    "pieces": ("notes.txt", {"tokenizer": "bpe", "vocab_size": 290}),
    "pairs": ("pairs.jsonl", {"prompt_column": "prompt", "completion_column": "completion"}),
    "labels": ("labels.csv", {"label_column": "label", "ngrams": False}),
}
"""The training file of each model, and its own options."""
SMALL = {"hidden_size": 16, "max_steps": 30, "threads": 1, "sample_steps": 0, "tokenizer": "char", "seed": 1}


def trained(root, *names):
    """The folders of these models, trained below `root`, where the texts are, too."""
    for name, text in FILES.items():
        (root / name).write_text(text)
    made = {name: MODELS[name] for name in names or MODELS}
    return {
        name: textgen.train(root / file, output_dir=str(root / name), **{**SMALL, **options})
        for name, (file, options) in made.items()
    }


@contextmanager
def served(app, listening=None, seen=None):
    """A client of an application that listens on a port of its own, or on a socket. `seen` gets the server."""
    loop = "auto" if listening is None else "asyncio"  # uvloop treats both kinds of sockets alike
    server = uvicorn.Server(uvicorn.Config(app, http=Connection, port=0, loop=loop, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": listening and [listening]})
    thread.start()
    if seen is not None:
        seen.append(server)
    try:
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
