"""A model as one HTML file that writes text offline, from a disk or on a phone.

The file holds the page, the runtime, and the model as compressed data. A content security policy allows the page's own
script and style by their hashes, a worker made of the runtime, and nothing else: no request leaves the page. Whatever
comes from the model is base64, and is only ever shown as text, so that no model can add markup or code.
"""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path

from textgen.export.bundle import Bundle
from textgen.policy import policy_of

PAGE = Path(__file__).parent / "page"


def code() -> str:
    """The JavaScript that runs a model."""
    return "\n".join((PAGE / name).read_text(encoding="utf-8") for name in ("runtime.js", "words.js", "forecast.js"))


def html(bundle: Bundle) -> bytes:
    """The page of a bundle."""
    page = (PAGE / "page.html").read_text(encoding="utf-8")
    page = page.replace("POLICY", policy_of(page, script_src="blob:", worker_src="blob:"), 1)
    description = json.dumps(bundle.description, ensure_ascii=True, allow_nan=False).encode()
    parts = {"RUNTIME": code(), "DESCRIPTION": _packed(description), "WEIGHTS": _packed(bundle.weights)}
    for name, content in parts.items():
        page = page.replace(f">{name}</script>", f">{content}</script>", 1)
    return page.encode()


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode()
