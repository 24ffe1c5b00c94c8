"""A lavra command with a stopwatch: `python bench/_watched.py REPORT.json BEGAN train …`, BEGAN by `time.time()`.

The command is the real one; only the clock is read around its steps, its batches and its checkpoints.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lavra.cli.main import main as lavra


class Watch:
    """What the clock said of one command; seconds since it was started, or spent.

    Attributes:
        report: `first_step_began`, `first_step_done`, `steps`, `loop_seconds` and `data_wait_seconds` without the first
            step, `checkpoint_wait_seconds`, `checkpoints`; `learned_from`, the end of the first step that the run
            keeps, which may be one of those that were timed before the loop; `positions` and `targets`, how many tokens
            the batches of the loop held, padding left out, and how many of these were to be predicted.
    """

    def __init__(self, began: float) -> None:
        self.began = began
        self.report: dict[str, Any] = {
            "steps": 0,
            "data_wait_seconds": 0.0,
            "checkpoints": 0,
            "positions": 0,
            "targets": 0,
        }
        self._looping = False
        self._before_the_loop: list[float] = []

    def put_up(self) -> None:
        """Put the clock around the loop, its steps, the batches and the checkpoints."""
        from lavra.training.batches import BatchSource
        from lavra.training.checkpoints.checkpoints import CheckpointStore
        from lavra.training.loop import Loop
        from lavra.training.trainer import Trainer

        watched: list[tuple[Any, str, Callable[..., Any]]] = [
            (Loop, "train", self._loop),
            (Trainer, "run_step", self._step),
            (BatchSource, "micro_batches", self._batches),
            (CheckpointStore, "save", self._save),
        ]
        for owner, name, around in watched:
            setattr(owner, name, around_call(getattr(owner, name), around))

    def _now(self) -> float:
        return time.time() - self.began

    def _loop(self, inner: Callable[[], Any], loop: Any) -> None:
        self._looping = True
        kept = loop.trainer.step  # timed steps that were taken back are not among them
        if 0 < kept <= len(self._before_the_loop):
            self.report["learned_from"] = self._before_the_loop[-kept]
        try:
            inner()
        finally:
            self._looping = False
            if "first_step_done" in self.report:
                self.report["loop_seconds"] = self._now() - self.report["first_step_done"]
            self.report["checkpoint_wait_seconds"] = loop.waited

    def _step(self, inner: Callable[[], Any], *_: Any) -> Any:
        if not self._looping:
            done = inner()
            self._before_the_loop.append(self._now())
            return done
        self.report.setdefault("first_step_began", self._now())
        done = inner()
        self.report.setdefault("first_step_done", self._now())
        self.report.setdefault("learned_from", self.report["first_step_done"])
        self.report["steps"] += 1
        return done

    def _batches(self, inner: Callable[[], Any], *_: Any) -> Any:
        start = time.perf_counter()
        batches = inner()
        if self._looping and self.report["steps"]:
            self.report["data_wait_seconds"] += time.perf_counter() - start
        if self._looping:
            for batch in batches:
                ids = batch.document_ids
                self.report["positions"] += batch.inputs.numel() if ids is None else int((ids >= 0).sum())
                self.report["targets"] += batch.count
        return batches

    def _save(self, inner: Callable[[], Any], *_: Any, **__: Any) -> Any:
        self.report["checkpoints"] += 1
        return inner()


def around_call(function: Callable[..., Any], around: Callable[..., Any]) -> Callable[..., Any]:
    """Return what calls `around` with the call that was asked for, and its arguments."""

    def call(*given: Any, **named: Any) -> Any:
        return around(lambda: function(*given, **named), *given, **named)

    return call


def main() -> int:
    report, began, *words = sys.argv[1:]
    watch = Watch(float(began))
    watch.put_up()
    code = lavra(words)
    Path(report).write_text(json.dumps(watch.report))
    return code


if __name__ == "__main__":
    sys.exit(main())
