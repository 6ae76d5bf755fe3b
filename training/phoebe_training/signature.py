"""Whose a SQLite file under the home is.

SQLite keeps a number in each file for the program that has made it. A file with another number, or
with tables that we did not make, is not written to.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from phoebe_spark.errors import ForeignFileError

_SIGNATURE = 0x70686F65  # in ASCII: phoe


def is_signed(db: sqlite3.Connection) -> bool:
    found: tuple[int] = db.execute("PRAGMA application_id").fetchone()
    return found == (_SIGNATURE,)


def may_be_signed(db: sqlite3.Connection) -> bool:
    """Whether no program has put its number there."""
    found: tuple[int] = db.execute("PRAGMA application_id").fetchone()
    return found == (0,)


def sign(db: sqlite3.Connection) -> None:
    db.execute(f"PRAGMA application_id = {_SIGNATURE}")


def objects(db: sqlite3.Connection) -> dict[str, str]:
    """How everything in the file was made, by name; empty for a new file."""
    found = db.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
    return dict(found.fetchall())


def foreign(path: Path, instead: str = "move it away, or name another home") -> ForeignFileError:
    return ForeignFileError(f"{path} is a file that phoebe_spark has not made: {instead}")
