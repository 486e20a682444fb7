"""Data sets of the Hugging Face Hub, streamed once into a temporary table and read from there."""

from __future__ import annotations

import atexit
import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from textgen.dependencies import needed
from textgen.errors import TextgenError, UsageError
from textgen.text.cells import cell
from textgen.text.header import choose_column

PREFIX = "hub:"
SPELLING = "hub:OWNER/NAME, hub:OWNER/NAME:CONFIG or hub:OWNER/NAME:CONFIG:SPLIT"
DEFAULT_SPLIT = "train"
_NAME = re.compile(r"hub:([\w.-]+(?:/[\w.-]+)?)(?::([^:]*))?(?::([^:]*))?")


def parse(typed: str) -> tuple[str, str | None, str]:
    """Name, configuration (None for the only or default one) and split of `hub:owner/name[:config][:split]`.

    The configuration may be empty: `hub:owner/name::test`. Raises UsageError.
    """
    match = _NAME.fullmatch(typed)
    if match is None:
        raise UsageError(f"{typed!r} is not the name of a Hub data set.", hint=f"write {SPELLING}.")
    return match[1], match[2] or None, match[3] or DEFAULT_SPLIT


def spool(typed: str, text_column: str | None, beside: Sequence[str] = ()) -> Path:
    """Write the text column of a data set, and any columns of `beside` that it has, to a temporary jsonl file.

    A corpus is read several times; the file is removed when the process ends. Rows without text are skipped unless
    there are columns beside it. Raises TextgenError if the data set cannot be read, or holds something other than text.
    """
    with tempfile.NamedTemporaryFile("wb", prefix="textgen-", suffix=".jsonl", delete=False) as file:
        atexit.register(Path(file.name).unlink, missing_ok=True)
        for row in _rows(typed, text_column, beside):
            file.write(json.dumps(row).encode() + b"\n")
    return Path(file.name)


def _rows(typed: str, asked: str | None, beside: Sequence[str]) -> Iterator[dict[str, Any]]:
    column: str | None = None
    for number, row in enumerate(_stream(typed), 1):
        if column is None:
            others = [key for key in row if isinstance(row[key], str | None) and key not in beside]
            column = choose_column(list(row), others, asked, typed)
        if cell(row.get(column), column, f"row {number} of {typed!r}") or beside:
            yield {name: row.get(name) for name in (column, *beside) if name in row}


def _stream(typed: str) -> Iterator[dict[str, Any]]:
    name, config, split = parse(typed)
    try:
        yield from _load(name, config, split)
    except TextgenError:
        raise
    except Exception as error:  # the library reads many formats over a network and may raise anything
        reason = next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), "")
        raise TextgenError(
            f"the data set {typed!r} cannot be read from the Hub ({reason[:300] or type(error).__name__}).",
            hint=f"check https://huggingface.co/datasets/{name}. Without a connection, name local files instead.",
        ) from error


def _load(name: str, config: str | None, split: str) -> Any:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with needed("datasets"):
        import datasets
        from huggingface_hub.utils import logging
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # it would report each attempt to reach the Hub
    return datasets.load_dataset(name, config, split=split, streaming=True)
