"""Ordered classes, such as stars: the cross-entropy of each threshold between two ranks (CORAL), and probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from lavra.core.errors import InputError
from lavra.objectives.classify import Classify, bernoulli_divergence


@dataclass(frozen=True)
class Ordinal(Classify):
    """The rank of each text, by an `OrdinalHead` (CORAL, Cao et al. 2020, arXiv 1901.07884).

    Of the ranks 0 to K - 1, output k of the head is the logit of lying above rank k. The loss is the sum of the binary
    cross-entropies of the K - 1 thresholds, in nats. A label may also be probabilities of the ranks, which give a
    probability for each threshold. Label smoothing takes s off each of these and adds s/2.

    The attributes are those of `Classify`; `size` is the number K of ranks.

    Raises:
        InputError: If an option does not fit ranks of texts.

    Examples:
        >>> Ordinal(context=4, size=5).head_size
        4
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.outputs != "classes" or self.tokens or self.size < 2:
            raise InputError("ranks are at least two classes of texts", "choose another objective")

    @property
    def head_size(self) -> int:
        """Number of outputs of the head, which is that of the thresholds."""
        return self.size - 1

    def _above(self, targets: torch.Tensor, labels: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
        """Return the probability of lying above each threshold, (n, size - 1), in the type of `like`."""
        if labels is None:
            return (targets[:, None] > torch.arange(self.head_size, device=targets.device)).to(like.dtype)
        return labels.to(like.dtype).flip(-1).cumsum(-1).flip(-1)[:, 1:]

    def _losses(
        self, outputs: torch.Tensor, targets: torch.Tensor, labels: torch.Tensor | None, smoothing: float
    ) -> torch.Tensor:
        outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        above = self._above(targets, labels, outputs) * (1.0 - smoothing) + smoothing / 2
        return F.binary_cross_entropy_with_logits(outputs, above, reduction="none").sum(-1)

    def _parts(
        self, outputs: torch.Tensor, targets: torch.Tensor, labels: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        """Return whether the rank of each text is right, and by how many ranks it is wrong."""
        ranks = targets if labels is None else labels.argmax(-1)
        apart = (ranks_of(outputs) - ranks).abs().float()
        return {"accuracy": (apart == 0).float(), "absolute_error": apart}

    def _apart(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return bernoulli_divergence(one, other).sum(-1)


def ranks_of(outputs: torch.Tensor) -> torch.Tensor:
    """Return the rank of each text, (n,) int64: the number of thresholds that it lies above with more than one half.

    Args:
        outputs: Logits of the thresholds, (n, ranks - 1).
    """
    return (outputs > 0).sum(-1)


def rank_probabilities(outputs: torch.Tensor) -> torch.Tensor:
    """Return the probability of each rank, (n, ranks), 0 or more and with the sum 1.

    Args:
        outputs: Logits of lying above each threshold, (n, ranks - 1), as an `OrdinalHead` gives them.

    Examples:
        >>> [[round(one, 2) for one in row] for row in rank_probabilities(torch.tensor([[1.0, -1.0]])).tolist()]
        [[0.27, 0.46, 0.27]]
    """
    # The outputs of a head fall from threshold to threshold; those of another model may not, and are made to.
    wide = torch.promote_types(outputs.dtype, torch.float32)
    above = outputs.to(wide).sigmoid().cummin(-1).values
    edge = above.new_ones(*above.shape[:-1], 1)
    return torch.cat([edge, above], -1) - torch.cat([above, edge * 0], -1)
