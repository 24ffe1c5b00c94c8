"""lavra itself: `lavra train` with the depth and the width that all sides have, and everything else its own choice.

Its `--budget` begins after the imports and ends after its own final evaluation; `quality.py` sets it so that the
model exists at the end of the benchmark's budget, as it sets the peers' numbers of steps.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, cast

from bench import _results
from bench.peers.jobs import Command, Job, Timeline, Variant, Watched, child

if TYPE_CHECKING:
    from bench.peers.scoring import Measure

    from lavra.models.native.decoder import Decoder

MOST_MORE = 1.1
"""What a budget may grow by, for the evaluation that comes after the model."""


class Lavra:
    """The adapter.

    Args:
        flags: more of `lavra train`, e.g. `--model.ngram-copy`.
    """

    name = "lavra"

    def __init__(self, flags: str = "") -> None:
        self.flags = flags.split()
        self.variants = (Variant(flags or "auto", False),)

    def versions(self) -> dict[str, str | None]:
        """Return the revision of the working tree, and torch's version."""
        return {"revision": _results.revision(), "torch": _results.version("torch")}

    def train(self, job: Job) -> Command:
        """Return the command."""
        job.write()
        words = [sys.executable, "-m", "lavra", "train", str(job.text / "stores"), "--out", str(job.out / "run")]
        words += ["--budget", f"{job.seconds:.2f}s", "--seed", str(job.seed), "--samples", "0"]
        words += ["--model.depth", str(job.shape.depth), "--model.width", str(job.shape.width)]
        return Command(words + self.flags, job.out / "run" / "model" / "model.safetensors", None)

    def score(self, job: Job) -> list[str]:
        """Return the command that scores."""
        return child("ours", "score", job)

    def timeline(self, job: Job, watched: Watched) -> tuple[Timeline, int]:
        """Return when things happened, by the run's own record, and the tokens that were learned from.

        `first` is the time before its budget began, and `step` a mean over everything up to the model.
        """
        result = json.loads((job.out / "run" / "result.json").read_text())
        before, steps = watched.process - result["seconds"], result["step"]
        timeline = Timeline(before, (watched.model - before) / steps, 0.0, watched.model, watched.process, steps)
        return timeline, result["tokens"]

    @staticmethod
    def budget_for(seconds: float, given: float, seen: Timeline) -> float:
        """Return the `--budget` with which the model should exist after `seconds`.

        Args:
            seconds: of the benchmark's budget.
            given: the `--budget` of an earlier run.
            seen: that run's timeline. Its model existed earlier than its budget ended, by the final evaluation.
        """
        share = given / max(seen.seconds - seen.first, 1e-9)
        return (seconds - seen.first) * min(MOST_MORE, max(1.0, share))


def measure_of(model: Decoder, end_of_document: int, isolate: bool) -> Measure:
    """Return what sums a window's nats: as in training, a position sees its own document only, where `isolate`."""
    import numpy as np
    import torch

    from lavra.models.protocols import Batch
    from lavra.objectives.causal import Causal

    objective = Causal(model.context)

    def measure(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        begins = (inputs == end_of_document).numpy()
        begins[:, 0] = True
        columns = np.arange(inputs.shape[1])
        starts = np.maximum.accumulate(np.where(begins, columns, 0), axis=1)
        batch = Batch(
            inputs,
            targets,
            document_ids=torch.from_numpy(np.cumsum(begins, axis=1, dtype=np.int32) - 1) if isolate else None,
            positions=torch.from_numpy(columns - starts) if isolate else None,
            weight=float(targets.numel()),
        )
        return objective.loss(model, batch).sum

    return measure


def _score(job: Job) -> None:
    from bench.peers.scoring import report, total_nats

    from lavra.workflows.models.open import open_model

    opened = open_model(str(job.out / "run"), device="cpu")
    model = cast("Decoder", opened.model)
    plan = json.loads((job.out / "run" / "plan.json").read_text())
    measure = measure_of(model, opened.tokenizer.end_of_document, plan["isolate"])
    blocks = sum(parameter.numel() for parameter in model.blocks.parameters())
    # The plan gives the smallest budgets a shorter context than the peers'; such a model is scored with what it has.
    report(total_nats(measure, job.text, min(job.shape.context, model.context)), blocks)


if __name__ == "__main__":
    _score(Job.read(sys.argv[2]))
