"""A content security policy for a page that is one file: only its own script and style may run, by their hashes."""

from __future__ import annotations

import base64
import hashlib
import re


def policy_of(page: str, **more: str) -> str:
    """The policy of a page with one inline style, and one inline script or none. `more` are further directives, with
    `_` for `-`; what they say of `script_src` is added to the hash."""
    allowed = {kind: _hash(page, kind) if f"<{kind}>" in page else "'none'" for kind in ("script", "style")}
    directives = {
        "default-src": "'none'",
        "script-src": f"{allowed['script']} {more.pop('script_src', '')}".strip(),
        "style-src": allowed["style"],
        **{name.replace("_", "-"): value for name, value in more.items()},
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in directives.items())


def _hash(page: str, kind: str) -> str:
    """The hash of the one element of this kind without attributes, as a policy names it."""
    (inner,) = re.findall(f"<{kind}>(.*?)</{kind}>", page, flags=re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()}'"
