"""Observers: they see every event, their requests add up, and their failures do not reach the run."""

from __future__ import annotations

import pytest

from lavra.core.errors import InputError
from lavra.training.callbacks import Callbacks, Request


class Listener:
    def __init__(self, answer=None) -> None:
        self.answer, self.seen = answer, []

    def on(self, event, info):
        self.seen.append((event, dict(info)))
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


def test_everyone_is_told_and_requests_add_up():
    listeners = [Listener(), Listener(Request(save=True, reason="a")), Listener(Request(stop=True, reason="b"))]
    request = Callbacks(listeners).on("step", {"step": 3, "loss": 1.5})
    assert request == Request(stop=True, save=True, evaluate=False, reason="a; b")
    assert all(listener.seen == [("step", {"step": 3, "loss": 1.5})] for listener in listeners)
    assert Callbacks().on("end", {}) == Request()


def test_a_failing_observer_is_reported_once_and_later_left_out():
    failing, healthy, reports = Listener(ConnectionError("no network")), Listener(Request(evaluate=True)), []
    callbacks = Callbacks([failing, healthy], reports.append)
    for step in range(20):
        assert callbacks.on("step", {"step": step}).evaluate
    assert len(healthy.seen) == 20
    assert len(failing.seen) == 10
    assert reports == [
        "warning: Listener failed at 'step', training goes on: ConnectionError: no network",
        "warning: Listener failed 10 times in a row and is not called any more",
    ]


def test_a_failure_now_and_then_is_forgiven():
    flaky, reports = Listener(), []
    callbacks = Callbacks([flaky], reports.append)
    for step in range(40):
        flaky.answer = ValueError("now and then") if step % 2 else None
        callbacks.on("step", {"step": step})
    assert len(flaky.seen) == 40
    assert len(reports) == 1


def test_what_is_observed_can_not_be_changed():
    class Meddler:
        def on(self, event, info):
            info["loss"] = 0.0

    metrics, reports = {"loss": 2.0}, []
    Callbacks([Meddler()], reports.append).on("step", metrics)
    assert metrics == {"loss": 2.0}
    assert "TypeError" in reports[0]


def test_ctrl_c_and_a_wrong_request_at_the_start_are_let_through():
    with pytest.raises(KeyboardInterrupt):
        Callbacks([Listener(KeyboardInterrupt())]).on("step", {})
    with pytest.raises(InputError):
        Callbacks([Listener(InputError("no such project"))]).on("start", {})
    Callbacks([Listener(InputError("too late"))], lambda text: None).on("step", {})
