"""What of a model folder is given to others."""

from __future__ import annotations

import re
from pathlib import Path

from textgen import storage
from textgen.errors import TextgenError, UsageError
from textgen.model import CARD, require_model, require_weights
from textgen.model.bases import listed
from textgen.options import named

LEFT_OUT = (storage.ARGUMENTS,)
"""Files of a model folder that stay: the options of the training, with paths of this machine."""
_HEADER = re.compile(r"---\n(.*?)\n---\n", re.DOTALL)


def published(folder: Path, license: str | None = None) -> dict[str, bytes]:
    """The files of a model folder that are uploaded, by name: never checkpoints, metrics or the options of the
    training. `license` is written into the card. Raises TextgenError for a folder that holds no model, and for a card
    without a license."""
    require_model(folder)
    manifest = storage.read_manifest(folder)
    require_weights(folder, manifest)
    files = {file: storage.verified(folder, file, manifest) for file in manifest["files"] if file not in LEFT_OUT}
    card = files.get(CARD, b"---\n---\n").decode("utf-8", "replace")
    if license is not None:
        card = _with_license(card, license)
        files[CARD] = card.encode()
    if not listed(card, "license"):
        raise TextgenError(
            f"the card of {str(folder)!r} names no license, so nobody could use the model.",
            hint=f"{named('license', 'mit')} writes one into the card that is uploaded.",
        )
    return files


def _with_license(card: str, license: str) -> str:
    """A card whose header names this license. Raises UsageError for anything but an identifier."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]{1,60}", license):
        raise UsageError(f"{named('license', license)} must be an identifier such as mit, apache-2.0 or cc-by-4.0.")
    header = _HEADER.match(card)
    lines = header[1].split("\n") if header else []
    kept = [line for line in lines if line and not line.startswith("license:")]
    body = card[header.end() :] if header else card
    return "\n".join(["---", *kept, f"license: {license}", "---", body])
