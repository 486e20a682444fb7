"""Who may use the server: API keys, and which hosts and origins may name it."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from textgen.errors import TextgenError

LARGEST_FILE = 1 << 20
SHORTEST_KEY = 16


@dataclass(frozen=True)
class Keys:
    """API keys by name. The names own states and appear in metrics; the keys appear nowhere."""

    by_name: Mapping[str, bytes] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.by_name)

    def owner(self, authorization: str | None) -> str | None:
        """The name of the key in an Authorization header, None for a wrong one. Every key is compared, each in constant
        time, so that the time of an answer says nothing."""
        scheme, _, given = (authorization or "").partition(" ")
        key = given.strip().encode("utf-8", "surrogateescape") if scheme.lower() == "bearer" else b""
        found = [name for name, known in self.by_name.items() if hmac.compare_digest(known, key)]
        return found[0] if found else None


def read_keys(file: Path | None, variable: str | None) -> Keys:
    """The keys of a file, one `NAME KEY` or `KEY` in each line ('#' begins a comment), and that of an environment
    variable. Raises TextgenError for a file that cannot be read, a repeated name, and a short key."""
    lines = [f"default {variable}"] if variable else []
    if file is not None:
        try:
            content = file.read_bytes()[:LARGEST_FILE].decode()
        except (OSError, UnicodeDecodeError) as error:
            raise TextgenError(f"the API keys in {str(file)!r} cannot be read: {error}.") from None
        lines += [line for line in content.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        if not lines:
            raise TextgenError(f"{str(file)!r} holds no API key.", hint="each line is a name and a key.")
    keys: dict[str, bytes] = {}
    for number, line in enumerate(lines, 1):
        name, _, key = line.strip().rpartition(" ")
        name = name.strip() or f"key-{number}"
        if len(key) < SHORTEST_KEY:
            raise TextgenError(
                f"the API key {name!r} has {len(key)} characters; it needs {SHORTEST_KEY}.",
                hint="make one: python -c 'import secrets; print(secrets.token_urlsafe(24))'",
            )
        if name in keys:
            raise TextgenError(f"two API keys have the name {name!r}.")
        keys[name] = key.encode()
    return Keys(keys)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches this host."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_foreign(host: str | None, origin: str | None, allowed: Sequence[str] = ()) -> bool:
    """Whether a request without a key names another host than this machine, or comes from a page of another origin. A
    page elsewhere could otherwise reach a server at home through its visitor's browser (DNS rebinding)."""
    name = urlsplit(f"//{host}").hostname if host else None
    if name is None or not is_loopback(name):
        return True
    return origin is not None and origin not in allowed and not _is_same(origin, host)


def _is_same(origin: str, host: str | None) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == (host or "").lower()
    except ValueError:
        return False
