"""The queue between the thread that reads the plugin's lines and the loop that handles them.

It is bounded in bytes, because a query's plan may be a million times as long as a task's end. The
time that lines wait for room is bounded too. Lines are passed on in the pieces that were read, not
one by one: a lock for each line would cost more than the work.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Sequence

MOST_BYTES = 2 << 20
PUT_LIMIT_S = 5.0
"""How long lines wait for room. Longer than a slow commit: after that the writer of the tables
hangs. Lines are then lost, because questions and the end of input must still be read."""


class Intake:
    """The queue, with one reader and one writer."""

    def __init__(self, most_bytes: int = MOST_BYTES, patience_s: float | None = None) -> None:
        self._most_bytes = most_bytes
        self._patience_s = PUT_LIMIT_S if patience_s is None else patience_s
        self._changed = threading.Condition()
        self._pieces: deque[tuple[int, Sequence[bytes]] | None] = deque()
        self._bytes = 0
        self._lost = 0
        self.jammed = False  # the last piece found no room in time

    def put(self, lines: Sequence[bytes]) -> None:
        """Adds a piece. Waits for room only as long as the loop is known to work. An empty queue
        always has room for one piece."""
        size = sum(map(len, lines))
        with self._changed:
            patience_s = 0.0 if self.jammed else self._patience_s
            self.jammed = not self._changed.wait_for(
                lambda: not self._pieces or self._bytes + size <= self._most_bytes, patience_s
            )
            if self.jammed:
                self._lost += len(lines)
                return
            self._pieces.append((size, lines))
            self._bytes += size
            self._changed.notify_all()

    def end(self) -> None:
        """Marks the end of the lines."""
        with self._changed:
            self._pieces.append(None)
            self._changed.notify_all()

    def get(self, timeout_s: float) -> Sequence[bytes] | None:
        """The next lines, None at the end. Raises ``queue.Empty``."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._pieces, timeout_s):
                raise queue.Empty
            piece = self._pieces.popleft()
            if piece is None:
                return None
            self._bytes -= piece[0]
            self._changed.notify_all()
            return piece[1]

    def take_lost(self) -> int:
        """Lines lost since the last call."""
        with self._changed:
            lost, self._lost = self._lost, 0
        return lost
