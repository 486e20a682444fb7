"""How a server behaves: its options, declared once for the command line and for `create_app`."""

from __future__ import annotations

from dataclasses import dataclass

from textgen.errors import UsageError
from textgen.options import named, option

VARIABLE = "TEXTGEN_API_KEY"
"""The environment variable that holds an API key."""
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True)
class Settings:
    """How a server behaves."""

    host: str = option("127.0.0.1", "Address to listen on; other than this machine's own, it needs an API key.")
    port: int = option(8080, "Port to listen on; 0 for any that is free.", low=0, high=65_535)
    api_key_file: str | None = option(
        None,
        f"File with API keys, a name and a key in each line; ${VARIABLE} holds a single one.",
        metavar="FILE",
        default_text="none",
    )
    cors_origin: list[str] = option([], "Web page origin that may use the server; may be repeated.", metavar="ORIGIN")
    max_streams: int = option(64, "Texts that are written together.", low=1, high=4096, section="Limits")
    max_queue: int = option(256, "Texts that may wait; more are refused with 503.", low=0, high=1_000_000)
    max_prompt_bytes: int = option(1_000_000, "Largest prompt.", low=1, high=2**40)
    max_body_bytes: int = option(8_000_000, "Largest request.", low=1000, high=2**40)
    request_timeout: float = option(600.0, "Seconds that a request may take.", above=0, high=1e9)
    grace: float = option(10.0, "Seconds that running requests have to finish when the server stops.", low=0, high=1e6)
    states_dir: str | None = option(
        None, "Folder for the states that requests leave behind.", metavar="DIR", default_text="kept in memory",
        section="States",
    )  # fmt: skip
    states_limit: str = option(
        "256M", "Bytes that all states may take, such as 12G; the least recently used ones go.", metavar="SIZE"
    )
    reload: bool = option(False, "Open a model again when a training run has improved it.", section="Models")

    @property
    def states_bytes(self) -> int:
        """The limit of all states in bytes. Raises UsageError for anything but a number with K, M, G or T."""
        text = self.states_limit.strip().upper().removesuffix("B")
        number, unit = (text[:-1], text[-1]) if text[-1:] in UNITS and text else (text, "")
        try:
            size = float(number) * UNITS[unit]
        except ValueError:
            size = 0
        if not 1000 <= size < 2**60:
            raise UsageError(f"{named('states_limit', self.states_limit)} must be a size such as 500M or 12G.")
        return int(size)
