"""The model that a training started from, as the new model remembers it in `config.json`. Imports no torch.

The record is a table: `name`, `package` (empty for a folder), `digest` of its weights, and what its card says about
`license` and `data`. If that model had a base itself, its record is there as `base`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from textgen import plugins, storage
from textgen.model import CARD, WEIGHTS, read_config

MOST_SHOWN = 300
"""Characters of a license or of a list of data that a record holds at most."""


def record_of(name: str, folder: Path) -> dict[str, Any]:
    """The record of a model folder that training starts from by this name. Raises DamagedError naming the file."""
    manifest = storage.read_manifest(folder)
    card = storage.verified(folder, CARD, manifest).decode("utf-8", "replace") if CARD in manifest["files"] else ""
    installed = name in plugins.base_names() and plugins.find(name) == folder
    record = {
        "name": name if installed else folder.absolute().name,
        "package": plugins.owner(name, "models").package if installed else "",
        "digest": manifest["files"][WEIGHTS]["sha256"],
        "license": "".join(listed(card, "license")[:1]),
        "data": ", ".join(listed(card, "datasets"))[:MOST_SHOWN],
    }
    before = read_config(folder, manifest).base
    return {**record, **({"base": before} if before else {})}


def listed(card: str, key: str) -> list[str]:
    """The value or values of a key in the header of a model card, which is YAML of one level."""
    header = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    found = re.search(rf"^{key}:(.*(?:\n[ ]*-.*)*)", header[1], re.MULTILINE) if header else None
    values = found[1].split("\n") if found else []
    return [value.strip().removeprefix("- ").strip("\"'")[:MOST_SHOWN] for value in values if value.strip()]


def sentences(base: Mapping[str, Any]) -> str:
    """What the card of a model says about its base and the base of that; empty without one."""
    if not base:
        return ""
    names = [base["name"], *([f"package {base['package']}"] if base.get("package") else [])]
    parts = [f"Its training started from {', '.join(names)}"]
    parts += [f"trained on {base['data']}"] if base.get("data") else []
    parts += [f"license {base['license']}"] if base.get("license") else []
    further = sentences(base.get("base", {})).replace("Its training", f"The training of {base['name']}", 1)
    return f"{'; '.join(parts)}. {further}".strip()
