"""The causal objective: predict every token from the tokens before it in its own document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lavra.models.protocols import Batch, logit_cap_of
from lavra.objectives.base import Loss, batch_of_windows
from lavra.objectives.cross_entropy import summed_cross_entropy

if TYPE_CHECKING:
    from lavra.core.seeds import Streams
    from lavra.data.packing import Window
    from lavra.models.protocols import Model


@dataclass(frozen=True)
class Causal:
    """Next-token prediction on packed windows of a token store.

    Attributes:
        context: Length of every sequence in tokens. A shorter window, the last of an epoch, is padded with positions
            that have no target.
        isolate: Whether positions attend only to their own document and are counted from its beginning. Otherwise a
            window is one text, whatever documents it holds.
        label_smoothing: Share of each target's probability that is spread over the vocabulary while the model learns.
            Validation measures the plain likelihood.
        compiled: Whether the loss may be compiled by `torch.compile`, as the blocks of the model are.
        z_loss: Weight of the squared logarithm of the softmax normaliser while the model learns; 0 for none.

    Examples:
        Two documents, 5 6 and 7, share a sequence. Token 0 ends each of them and is what the first token of a document
        is predicted from:

        >>> import numpy as np
        >>> from lavra.data.packing import Window
        >>> window = Window(
        ...     tokens=np.array([0, 5, 6, 0, 7, 0]),
        ...     documents=np.array([0, 0, 0, 1, 1]),
        ...     document_ids=np.array([0, 0, 0, 1, 1]),
        ...     positions=np.array([0, 1, 2, 0, 1]),
        ...     inputs=np.array([0, 5, 6, 0, 7]),
        ... )
        >>> batch = Causal(context=5).encode([window], streams=None, progress=0.0)
        >>> batch.inputs.tolist(), batch.targets.tolist()
        ([[0, 5, 6, 0, 7]], [[5, 6, 0, 7, 0]])
    """

    context: int
    isolate: bool = True
    label_smoothing: float = 0.0
    compiled: bool = False
    z_loss: float = 0.0

    def encode(self, rows: Sequence[Window], streams: Streams, progress: float) -> Batch:
        """Return a batch with one sequence for each window; nothing is random.

        Position i reads input i of the window and predicts token i + 1 of its part of the token stream. It belongs to
        the document of the token that it predicts. Where that is the first token of a document, the position reads the
        token that begins documents and not the last token of the document before.

        Args:
            rows: Windows of a token store.
            streams: Not used.
            progress: Not used.
        """
        return batch_of_windows(rows, self.context, self.isolate, lambda _, window: (window.inputs, window.tokens[1:]))

    def loss(self, model: Model, batch: Batch, *, learning: bool = True) -> Loss:
        """Return the summed negative log-likelihood of the batch's targets in nats, each times its weight.

        Args:
            model: Model that computes the features and owns the output projection.
            batch: Batch on the model's device.
            learning: Whether the model learns from it. Where the loss is only measured, it is not smoothed.
        """
        features = model.features(batch)
        weight, bias = model.output_projection()
        total = summed_cross_entropy(
            features.reshape(-1, features.shape[-1]),
            weight,
            batch.targets.reshape(-1),
            bias=bias,
            weights=None if batch.weights is None else batch.weights.reshape(-1),
            vocabulary=model.vocabulary,
            label_smoothing=self.label_smoothing if learning else 0.0,
            compiled=self.compiled,
            cap=logit_cap_of(model),
            z_loss=self.z_loss if learning else 0.0,
        )
        return Loss(total, batch.weight)
