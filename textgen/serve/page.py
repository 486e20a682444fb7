"""The page for co-writing: one file, which may load nothing and run nothing but its own script and style."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("page.html")


@cache
def content() -> bytes:
    """The page."""
    return FILE.read_bytes()


@cache
def headers() -> dict[str, str]:
    """The headers that it is sent with: a policy that names its script and its style by their hashes."""
    page = content().decode()
    allowed = {kind: _hash(page, kind) for kind in ("script", "style")}
    policy = {
        "default-src": "'none'",
        "script-src": allowed["script"],
        "style-src": allowed["style"],
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return {
        "content-security-policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "cache-control": "no-cache",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }


def _hash(page: str, kind: str) -> str:
    """The hash of the one element of this kind, as a content security policy names it."""
    (inner,) = re.findall(f"<{kind}>(.*?)</{kind}>", page, flags=re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()}'"
