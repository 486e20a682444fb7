"""States that requests leave behind, in one SQLite database: found by an unguessable id, evicted if there are too many.

A state is the content of a state file, so `sample --load-state` reads what is downloaded. Each belongs to the API key
that made it. A state is committed before its id is sent, so that after a kill it is whole or absent.
"""

from __future__ import annotations

import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textgen.errors import TextgenError

ID = re.compile(r"[0-9a-f]{32}")
FILE = "states.sqlite"
MOST_LISTED = 1000
MOST_EVICTED = 1_000_000
"""How many evicted ids are remembered."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS states (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, model TEXT NOT NULL, created REAL NOT NULL, used REAL NOT NULL,
    size INTEGER NOT NULL, content BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_use ON states (used);
CREATE INDEX IF NOT EXISTS by_owner ON states (owner, created);
CREATE TABLE IF NOT EXISTS evicted (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE);
"""


class NoStateError(TextgenError):
    """There is no such state, or it belongs to another key."""


class StoreError(TextgenError):
    """The states cannot be written, for example because the disk is full."""


@dataclass(frozen=True)
class StoredState:
    """A state, its id, and when it was made and last used, in seconds since 1970."""

    id: str
    model: str
    created: float
    used: float
    size: int
    content: bytes = b""


class StateStore:
    """States in a folder, or in memory without one; the least recently used ones go when all together take more than
    `limit` bytes. Several threads may use it."""

    def __init__(self, folder: Path | None, limit: int) -> None:
        self._limit, self._lock = limit, threading.Lock()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = folder / FILE
            file.touch(mode=0o600)
            file.chmod(0o600)
        try:
            self._base = sqlite3.connect(
                ":memory:" if folder is None else folder / FILE, check_same_thread=False, isolation_level=None
            )
            self._base.execute("PRAGMA journal_mode = WAL")
            self._base.execute("PRAGMA synchronous = NORMAL")  # commits survive a kill; a power cut may lose the last
            self._base.executescript(SCHEMA)
            self._total = self._base.execute("SELECT coalesce(sum(size), 0) FROM states").fetchone()[0]
        except sqlite3.DatabaseError as error:
            raise TextgenError(f"the states in {str(folder)!r} cannot be opened: {error}.") from None

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """The database, within a transaction. Raises StoreError if it cannot be written."""
        with self._lock:
            before = self._total
            try:
                self._base.execute("BEGIN IMMEDIATE")
                yield self._base
                self._base.execute("COMMIT")
            except BaseException as error:
                self._total = before
                with suppress(sqlite3.Error):  # there is nothing to roll back if the beginning failed
                    self._base.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise StoreError(f"the states cannot be stored: {error}.") from error
                raise

    def put(self, content: bytes, owner: str, model: str, id: str | None = None) -> str:
        """Store a state; returns its id, a new one unless one is given, whose state it then replaces. Raises
        TextgenError for a state that is larger than the limit and for a wrong id, NoStateError for that of another
        owner."""
        size = len(content)
        if size > self._limit:
            raise TextgenError(f"a state of {size:,} bytes is larger than all states may be ({self._limit:,}).")
        id, now = secrets.token_hex(16) if id is None else _checked(id), time.time()
        with self._writing() as base:
            before = base.execute("SELECT owner, size FROM states WHERE id = ?", (id,)).fetchone()
            if before is not None and before[0] != owner:
                raise NoStateError(f"the state {id!r} belongs to another key.")
            base.execute("DELETE FROM states WHERE id = ?", (id,))
            base.execute("DELETE FROM evicted WHERE id = ?", (id,))
            self._total -= before[1] if before else 0
            evicted = self._evict(base, self._total + size - self._limit)
            base.execute("INSERT INTO states VALUES (?, ?, ?, ?, ?, ?, ?)", (id, owner, model, now, now, size, content))
            self._total += size - evicted
        return id

    def _evict(self, base: sqlite3.Connection, excess: int) -> int:
        """Remove the least recently used states until they free so many bytes; returns how many bytes they took."""
        freed, gone = 0, []
        for id, size in base.execute("SELECT id, size FROM states ORDER BY used") if excess > 0 else ():
            gone.append((id,))
            freed += size
            if freed >= excess:
                break
        if gone:
            base.executemany("DELETE FROM states WHERE id = ?", gone)
            base.executemany("INSERT OR IGNORE INTO evicted (id) VALUES (?)", gone)
            base.execute("DELETE FROM evicted WHERE number <= (SELECT max(number) FROM evicted) - ?", (MOST_EVICTED,))
        return freed

    def get(self, id: str, owner: str) -> StoredState:
        """A state of this owner, which counts as a use of it. Raises NoStateError with the reason."""
        with self._writing() as base:
            found = self._row(base, _checked(id), owner)
            base.execute("UPDATE states SET used = ? WHERE id = ?", (time.time(), id))
        return StoredState(*found)

    def _row(self, base: sqlite3.Connection, id: str, owner: str) -> tuple[Any, ...]:
        row: tuple[Any, ...] | None = base.execute(
            "SELECT id, model, created, used, size, content FROM states WHERE id = ? AND owner = ?", (id, owner)
        ).fetchone()
        if row is None:
            evicted = base.execute("SELECT 1 FROM evicted WHERE id = ?", (id,)).fetchone()
            why = "it was evicted, since the states reached their limit" if evicted else "it is unknown or was deleted"
            raise NoStateError(f"there is no state {id!r}: {why}.")
        return row

    def delete(self, id: str, owner: str) -> None:
        """Remove a state. Raises NoStateError if there is none of this owner."""
        with self._writing() as base:
            size = self._row(base, _checked(id), owner)[4]
            base.execute("DELETE FROM states WHERE id = ?", (id,))
            self._total -= size

    def listed(self, owner: str, after: str = "", limit: int = 100) -> list[StoredState]:
        """States of an owner, the newest first, without their content; those after the one of id `after`."""
        with self._lock:
            place = self._base.execute("SELECT created, id FROM states WHERE id = ? AND owner = ?", (after, owner))
            created, last = place.fetchone() or (float("inf"), "")
            rows = self._base.execute(
                "SELECT id, model, created, used, size FROM states WHERE owner = ? AND (created, id) < (?, ?)"
                " ORDER BY created DESC, id DESC LIMIT ?",
                (owner, created, last or "g", min(limit, MOST_LISTED)),
            ).fetchall()
        return [StoredState(*row) for row in rows]

    @property
    def size(self) -> tuple[int, int]:
        """How many states there are, and their bytes."""
        with self._lock:
            return self._base.execute("SELECT count(*) FROM states").fetchone()[0], self._total

    def close(self) -> None:
        with self._lock:
            self._base.close()


def _checked(id: str) -> str:
    """An id. Raises NoStateError for any other text."""
    if not ID.fullmatch(id):
        raise NoStateError(f"there is no state {id[:40]!r}: an id is 32 hexadecimal digits.")
    return id
