"""The thread that answers, and what gives way to it."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from phoebe_spark.companion import desk as desk_module
from phoebe_spark.companion.desk import AdviceDesk

PLAN = b'{"type":"plan","request_id":1}'


class SlowAdvisor:
    """Works on a plan until it is let go."""

    model_version = "some"

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.goes = threading.Event()

    def foresee(self, message: object) -> object:
        self.begun.set()
        assert self.goes.wait(60)
        return message


@pytest.fixture
def advisor(monkeypatch: pytest.MonkeyPatch) -> SlowAdvisor:
    made = SlowAdvisor()
    monkeypatch.setattr(AdviceDesk, "_load", lambda _: made)
    return made


def _asked(advisor: SlowAdvisor) -> AdviceDesk:
    nobody: Any = None
    desk = AdviceDesk("nowhere", "apply", {"advice.timeout_ms": 10_000}, nobody)
    began = time.monotonic()
    desk.give_way()
    assert time.monotonic() - began < desk_module.GIVE_WAY_S, "nothing was asked"
    desk.start()
    desk.ask(PLAN)
    assert advisor.begun.wait(60)
    return desk


def test_harvesting_rests_until_a_question_is_answered(
    advisor: SlowAdvisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk_module, "GIVE_WAY_S", 60)
    desk = _asked(advisor)
    rests = threading.Thread(target=desk.give_way)
    rests.start()
    time.sleep(0.05)
    assert rests.is_alive()
    advisor.goes.set()
    rests.join(30)
    assert not rests.is_alive()


def test_a_question_that_is_never_answered_holds_harvesting_up_once(advisor: SlowAdvisor) -> None:
    desk = _asked(advisor)
    began = time.monotonic()
    for _ in range(100):
        desk.give_way()
    assert time.monotonic() - began < 2 * desk_module.GIVE_WAY_S
    advisor.goes.set()
