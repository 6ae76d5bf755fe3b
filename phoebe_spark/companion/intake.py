"""What waits between the thread that reads the plugin's lines and the loop that works on them.

Bounded in bytes, because a query's plan may be a million times as long as a task's end, and in the
time that lines wait for room. Lines are handed over by the piece that was read, not one by one: a
lock for each would cost more than the work.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Sequence

MOST_BYTES = 2 << 20
PUT_LIMIT_S = 5.0
"""How long lines wait for room. Longer than a slow commit; then whoever writes the tables hangs,
and lines are lost, because the end of input and questions must be read all the same."""


class Intake:
    """The queue, with one reader and one writer."""

    def __init__(self, most_bytes: int = MOST_BYTES, patience_s: float | None = None) -> None:
        self._most_bytes = most_bytes
        self._patience_s = PUT_LIMIT_S if patience_s is None else patience_s
        self._changed = threading.Condition()
        self._pieces: deque[tuple[int, Sequence[bytes]] | None] = deque()
        self._bytes = 0
        self._lost = 0
        self.jammed = False  # what came last found no room in time

    def put(self, lines: Sequence[bytes]) -> None:
        """Waits for room only as long as the loop is known to work. One piece always has room in
        an empty queue."""
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
        """No more lines."""
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
