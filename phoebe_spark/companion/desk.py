"""Answers `advise` requests on a separate thread, so that they do not wait for harvesting.

A request's plan is sent in advance, in a `plan` message. Its prediction is made while the plugin
looks up the plan's boundaries. Harvesting pauses meanwhile.

LightGBM takes over a second to import and is needed only in modes ``advise`` and ``apply``. The
thread loads it first and then answers; a question asked meanwhile waits no longer than the plugin
does. Never raises: a failure gives "no checkpoint", with a reason.
"""

from __future__ import annotations

import gc
import logging
import os
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import phoebe_spark
from phoebe_spark import nested_json
from phoebe_spark.companion.protocol import Plugin
from phoebe_spark.settings import Value

if TYPE_CHECKING:
    from phoebe_spark.companion.advisor import Advisor, Foreseen
    from phoebe_spark.reasons import Reason

log = logging.getLogger(__name__)

ASKING_MODES = ("advise", "apply")
MOST_FORESEEN = 100
"""The most plans that are kept for a later `advise` request."""
GIVE_WAY_S = 0.5
"""The longest pause of harvesting for a question. A query waits for the answer; harvesting can
wait."""


class AdviceDesk:
    """One thread, one queue of questions, one advisor."""

    def __init__(
        self, home: str, mode: str, settings: Mapping[str, Value | None], plugin: Plugin
    ) -> None:
        self._home = home
        self._settings = settings
        self._plugin = plugin
        self._asking = mode in ASKING_MODES
        self._patience_s = float(settings["advice.timeout_ms"] or 0) / 1000
        self._questions: queue.Queue[tuple[float, bytes]] = queue.Queue(1000)
        self._foreseen: OrderedDict[int, Foreseen | Reason] = OrderedDict()
        self._shapes: tuple[str, ...] = ()
        self._idle = threading.Event()
        self._idle.set()
        self._asked_at = 0.0

    def long_shapes(self) -> Sequence[str]:
        """Plan shapes whose past runs were long, from the promoted bundle; needs no models."""
        if not self._asking:
            return ()
        try:
            from phoebe_spark.predict.bundle import long_shapes

            self._shapes = tuple(
                long_shapes(self._home, float(self._settings["min_duration_ms"] or 0))
            )
        except Exception as error:
            log.warning("no plan shapes: %s", error)
        return self._shapes

    def start(self) -> None:
        # A session may switch to apply later, so all modes answer questions.
        threading.Thread(target=self._serve, name="advice", daemon=True).start()

    def ask(self, line: bytes) -> None:
        """Queues an undecoded question. If the queue is full, it is not answered."""
        self._asked_at = time.monotonic()
        self._idle.clear()
        try:
            self._questions.put_nowait((self._asked_at, line))
        except queue.Full:
            log.warning("too many questions at once")

    def give_way(self) -> None:
        """Waits while a question is being answered, because the caller would compete for the
        interpreter; half a second for the last question at most."""
        if not self._idle.is_set():
            self._idle.wait(max(0.0, self._asked_at + GIVE_WAY_S - time.monotonic()))

    def _serve(self) -> None:
        advisor = self._load() if self._asking else None
        while True:
            if self._questions.empty():
                self._idle.set()
            asked_at, line = self._questions.get()
            if time.monotonic() - asked_at > self._patience_s:
                continue  # the plugin waits for this answer no more
            if advisor is None and not self._asking:
                self._asking = True
                advisor = self._load()
            try:
                message = nested_json.loads(line)
                if message["type"] == "plan":
                    self._shown(advisor, message)
                else:
                    self._plugin.send(self._answer(advisor, message))
            except Exception as error:  # this question stays unanswered; the next one may be good
                log.exception("no answer to %r", line[:80])
                self._plugin.log_once(
                    "answer", "warning", f"a question for advice was not answered: {error!r}"
                )

    def _load(self) -> Advisor | None:
        try:
            from phoebe_spark.companion.advisor import load_advisor

            advisor, problem = load_advisor(self._home, self._settings)
        except Exception as error:
            log.exception("no models")
            self._plugin.log("warning", f"no models, no query gets a checkpoint: {error}")
            return None
        if problem is not None:
            self._plugin.log("warning", f"no models, no query gets a checkpoint: {problem}")
        # Models and history are kept to the end: a garbage collection need not traverse them.
        gc.freeze()
        self._plugin.ready(
            phoebe_spark.__version__, os.getpid(), self._shapes, advisor.model_version
        )
        return advisor

    def _shown(self, advisor: Advisor | None, message: Mapping[str, Any]) -> None:
        if advisor is not None:
            self._foreseen[message["request_id"]] = advisor.foresee(message)
            while len(self._foreseen) > MOST_FORESEEN:  # not every plan has an `advise` request
                self._foreseen.popitem(last=False)

    def _answer(self, advisor: Advisor | None, message: Mapping[str, Any]) -> dict[str, Any]:
        """The ``advice`` message for one ``advise`` message."""
        if advisor is not None:
            return advisor.advise(message, self._foreseen.pop(message["request_id"], None))
        reason = {"code": "no_model", "args": {}, "message": "no trained models are loaded"}
        return {
            "type": "advice",
            "request_id": message["request_id"],
            "decisions": [
                {"node": b["node"], "checkpoint": False, "reason": reason, "predicted": None}
                for b in message.get("boundaries", ())
            ],
            "model_version": None,
            "elapsed_ms": 0.0,
        }
