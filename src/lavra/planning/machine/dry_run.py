"""A training step in rehearsal: the real trainer on tensors without values, so that shapes and memory are real.

Nothing is computed and nothing allocated, whatever the model's size: the tensors are fake (`FakeTensorMode`), and a
batch has the shapes of a batch of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lavra.config.transforms import EditConfig
from lavra.models.contract import Batch
from lavra.models.native.decoder import Decoder
from lavra.models.spec import DecoderSpec
from lavra.training.batches import Ranks
from lavra.training.optimizers.optimizers import OptimizerOptions
from lavra.training.precision import Precision

if TYPE_CHECKING:
    from lavra.training.trainer import Trainer


_IDS = 256
"""Token ids of the batches: those that every vocabulary has."""


@dataclass(frozen=True)
class Rehearsal:
    """What a step is rehearsed with.

    Attributes:
        model: the shape of our decoder, or the Hugging Face folder (its `config.json` is enough) of a model.
        context: tokens of a row.
        precision: of the working weights.
        optimizer: which optimiser.
        edits: adapters, frozen parts, gradient checkpointing.
        isolate: whether batches carry documents to be kept apart, which our decoder needs a mask for.
        whole_logits: hold the logits of a micro-batch at once, as a plain loop does, instead of a chunk of them.
        gpu: chunks of the loss are those of a GPU.
        micro_batches: of a step: 2 where gradients are accumulated.
        attention: kernel of a `transformers` model: `sdpa`, or `eager`, which holds all scores.
    """

    model: DecoderSpec | Path
    context: int
    precision: Precision = "fp32"
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    edits: EditConfig = field(default_factory=EditConfig)
    isolate: bool = True
    whole_logits: bool = False
    gpu: bool = False
    micro_batches: int = 2
    attention: str = "sdpa"

    def trainer(
        self,
        micro_rows: int,
        make: Callable[[], nn.Module] | None = None,
        device: torch.device = torch.device("cpu"),  # noqa: B008 - a plain value
    ) -> Trainer:
        """Build the trainer of the rehearsal; among `fake_tensors` it takes no memory.

        Args:
            micro_rows: rows of a micro-batch.
            make: builds the model, where another than the rehearsal's own is wanted (for measuring with values).
            device: where; fake tensors are on the CPU.
        """
        from lavra.models.transforms.apply import apply_edits
        from lavra.objectives.causal import Causal
        from lavra.training.optimizers.schedules import Schedule
        from lavra.training.trainer import Trainer
        from lavra.training.updates import Clip

        model: Any = bare_model(self.model, self.attention) if make is None else make()
        model.train()
        apply_edits(model, self.edits)
        objective: Any = _WholeLogits() if self.whole_logits else Causal(self.context, self.isolate)
        return Trainer(
            model,
            objective,
            _Batches(self, micro_rows),  # pyright: ignore[reportArgumentType]
            optimizer=self.optimizer,
            schedule=Schedule(),
            precision=self.precision,
            device=device,
            steps=10,
            updates=[Clip(1.0)],
        )


def bare_model(model: DecoderSpec | Path, attention: str = "sdpa") -> nn.Module:
    """Return a model of that shape with weights that were never drawn; its tensors are made on the current device.

    Raises:
        InputError: if a folder holds no configuration of a language model.
    """
    if isinstance(model, DecoderSpec):
        return Decoder(model)
    return HubShape(model, attention)


class HubShape(nn.Module):
    """A `transformers` model made from its configuration alone, behind the model contract; for shapes, not for use.

    Args:
        folder: with `config.json`.
        attention: `sdpa` or `eager`.
    """

    def __init__(self, folder: Path, attention: str = "sdpa") -> None:
        from transformers import AutoConfig

        from lavra.models.families.importing import read_config
        from lavra.models.hf.kinds import automatic_class, choose_kind

        super().__init__()
        self.kind = choose_kind(read_config(folder), folder)
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        self.inner: Any = automatic_class(self.kind).from_config(config, attn_implementation=attention)
        self.longest = getattr(config, "max_position_embeddings", 0) or getattr(config, "n_positions", 0) or 1024

    def features(self, batch: Batch) -> torch.Tensor:
        """Return (rows, length, width): what the head is given; an encoder-decoder reads the batch on both sides."""
        arguments: dict[str, Any] = {"input_ids": batch.inputs}
        if self.kind == "encoder-decoder":
            arguments["decoder_input_ids"] = batch.inputs
        if self.kind != "encoder":
            arguments["use_cache"] = False
        found: list[torch.Tensor] = []

        def capture(_: nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
            found.append(given[0])
            return (given[0][:, :0],)  # no logits

        handle = self.inner.get_output_embeddings().register_forward_pre_hook(capture)
        try:
            self.inner(**arguments)
        finally:
            handle.remove()
        return found[0]

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """Return (…, vocabulary) logits."""
        weight, bias = self.output_projection()
        return nn.functional.linear(features, weight, bias)

    def output_projection(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the weight and bias of the head."""
        head = self.inner.get_output_embeddings()
        return head.weight, head.bias

    @property
    def vocabulary(self) -> int:
        """Rows of the head."""
        return self.inner.get_output_embeddings().weight.shape[0]

    @property
    def context(self) -> int:
        """Longest window in tokens."""
        return int(self.longest)


class _WholeLogits:
    """The causal loss of a plain loop: all logits of the micro-batch at once, and their cross-entropy in float32."""

    def loss(self, model: Any, batch: Batch) -> Any:
        from lavra.objectives.base import Loss

        logits = model.head(model.features(batch)).float()
        total = nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="sum")
        return Loss(total, batch.weight)


class _Batches:
    """Batches of the right shapes, of some random tokens."""

    def __init__(self, rehearsal: Rehearsal, micro_rows: int) -> None:
        self.rehearsal, self.micro_rows = rehearsal, micro_rows
        self.share, self.seed, self.steps, self.ranks = micro_rows * rehearsal.micro_batches, 0, 10, Ranks()

    def micro_batches(self, step: int) -> list[Batch]:
        """Return the micro-batches of a step; the first, which only makes the optimiser's state, has one."""
        shape = self.micro_rows, self.rehearsal.context
        isolate = self.rehearsal.isolate and isinstance(self.rehearsal.model, DecoderSpec)
        return [
            Batch(
                torch.randint(0, _IDS, shape),
                torch.randint(0, _IDS, shape),
                torch.zeros(shape, dtype=torch.int32) if isolate else None,
                torch.zeros(shape, dtype=torch.int64) if isolate else None,
                weight=float(shape[0] * shape[1]),
            )
            for _ in range(self.rehearsal.micro_batches if step else 1)
        ]


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Make every tensor of the block one without values; modules can still be asked for another type.

    `Module.to` swaps fake parameters for new ones, which the fake mode's own references to them forbid.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    before = nn.Module.to

    def to(self: nn.Module, *arguments: Any, **options: Any) -> nn.Module:
        dtype = options.get("dtype") or next((word for word in arguments if isinstance(word, torch.dtype)), None)
        for parameter in self.parameters() if dtype is not None else ():
            parameter.data = parameter.data.to(dtype)
        return self

    nn.Module.to = to  # pyright: ignore[reportAttributeAccessIssue]
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        nn.Module.to = before


@contextmanager
def chunks_of_a_gpu(wanted: bool) -> Iterator[None]:
    """Let the loss take a GPU's chunks of logits on the CPU, where the tensors of a rehearsal are."""
    from lavra.objectives import cross_entropy

    before = cross_entropy.CPU_CHUNK_BYTES
    if wanted:
        cross_entropy.CPU_CHUNK_BYTES = cross_entropy.GPU_CHUNK_BYTES
    try:
        yield
    finally:
        cross_entropy.CPU_CHUNK_BYTES = before
