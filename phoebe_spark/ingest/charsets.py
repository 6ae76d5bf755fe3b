"""Lines that are not UTF-8: until Spark 3.0 a log was written in its driver's own charset."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

_CHARSET = re.compile(rb'"file\.encoding":"([\w.:-]+)"')
_GUESSES = ("cp1252", "latin-1", "gb18030", "cp932", "big5", "cp949")


def charset_in(environment: bytes) -> str | None:
    """The driver's charset, by Python's name, as its properties tell it."""
    found = _CHARSET.search(environment)
    try:
        name = codecs.lookup(found[1].decode()).name if found else None
        if name is not None:
            b"\xe9".decode(name, "replace")  # Python has codecs that are no charsets
    except (LookupError, UnicodeError):
        return None
    return None if name == "ascii" else name  # as ASCII, nothing else can have been written


def is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def readings(line: bytes, charset: str | None) -> Iterator[str]:
    """What a line that is not UTF-8 may say, the likeliest first.

    UTF-8 with a few broken characters keeps the others. A charset with bytes that are also JSON's
    own signs (a backslash, a bracket) is found by the reading that is JSON.
    """
    if charset is not None:
        yield line.decode(charset, "replace")
    text = line.decode(errors="replace")
    if 2 * text.count("\ufffd") < len(text) - len(text.encode("ascii", "ignore")):
        yield text
    for guess in _GUESSES:
        try:
            yield line.decode(guess)
        except UnicodeDecodeError:
            continue
