"""Gradual unfreezing: the head learns first, then one block after the other, from the top down."""

from __future__ import annotations

from collections.abc import Iterable

from lavra.core.errors import InputError
from lavra.models.parameter_names import block_of, depths, is_embedding
from lavra.training.step import Step
from lavra.training.updates.base import Inner, Outcome, Update


class GradualUnfreezing(Update):
    """Update that holds the lower layers still at the beginning of a run (ULMFiT, Howard and Ruder 2018, 1801.06146).

    What stands outside the blocks and is no embedding (heads, final norms) learns from the first step on; the blocks
    follow from the last to the first, and at last the embeddings, at equal distances over a share of the run. The
    gradients of what is held still are computed and thrown away, so that nothing is compiled again and a step costs
    what it costs without the update.

    Args:
        names: Names of the weights that learn.
        over: Share of the run after which everything learns, from 0 to below 1; 0 is the run without the update, to the
            bit.

    Raises:
        InputError: If the share is out of range.

    Attributes:
        starts: Share of the run from which each weight learns, by name.

    Examples:
        >>> names = ["embed.weight", "layers.0.up.weight", "layers.1.up.weight", "task_head.output.weight"]
        >>> [round(start, 2) for start in GradualUnfreezing(names, 0.3).starts.values()]
        [0.3, 0.2, 0.1, 0.0]
    """

    name = "unfreezing"

    def __init__(self, names: Iterable[str], over: float) -> None:
        if not 0 <= over < 1:
            raise InputError(f"unfreezing over {over:g} of the run is not possible", "choose 0 to below 1")
        self.over, self.starts = over, _starts(list(names), over)

    def around(self, step: Step, inner: Inner) -> Outcome:
        """Clear the gradients of the layers that are held still, perform the step, and return its outcome."""
        weights = step.master_weights.weights
        still = [name for name, start in self.starts.items() if step.progress < start]
        for name in still:
            weights[name].grad = None
        outcome = inner()
        if self.over:
            outcome.metrics["frozen_tensors"] = float(len(still))
        return outcome


def _starts(names: list[str], over: float) -> dict[str, float]:
    """Return the share of the run from which each weight learns."""
    depth = depths(names)
    levels: dict[str, int] = {}
    for name in names:
        place = block_of(name)
        if place is not None:
            levels[name] = depth[place[0]] - place[1]
        else:
            levels[name] = max(depth.values(), default=0) + 1 if is_embedding(name) else 0
    ordered = sorted(set(levels.values()))
    last = max(1, len(ordered) - 1)
    return {name: over * ordered.index(level) / last for name, level in levels.items()}
