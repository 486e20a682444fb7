"""The page for co-writing: one file, which may load nothing and run nothing but its own script and style."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from textgen.policy import policy_of

FILE = Path(__file__).with_name("page.html")


@cache
def content() -> bytes:
    """The page."""
    return FILE.read_bytes()


@cache
def headers() -> dict[str, str]:
    """The headers that it is sent with: a policy that names its script and its style by their hashes."""
    policy = policy_of(content().decode(), connect_src="'self'", frame_ancestors="'none'")
    return {
        "content-security-policy": policy,
        "cache-control": "no-cache",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }
