"""Dry run of a training step: the real trainer on fake tensors, so that shapes and memory are those of a real run.

Nothing is computed and nothing is allocated, whatever the size of the model: the tensors have shapes but no values
(torch's `FakeTensorMode`), and a batch has the shapes of a batch of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lavra.config.transforms import TransformConfig
from lavra.models.native.building import decoder_of
from lavra.models.protocols import Batch
from lavra.models.spec import DecoderSpec
from lavra.training.batches import DistributedInfo
from lavra.training.optimizers.optimizers import OptimizerOptions
from lavra.training.plan import Plan
from lavra.training.precision import Precision

if TYPE_CHECKING:
    from lavra.training.trainer import Trainer


_IDS = 256
"""Number of different token ids in the batches; every vocabulary is at least this large."""


@dataclass(frozen=True)
class DryRun:
    """Configuration of a dry run of a training step.

    Attributes:
        model: Shape of lavra's own decoder; or a Hugging Face model folder, of which `config.json` is enough.
        context: Length of a sequence in tokens.
        precision: Precision that the model computes in.
        optimizer: Optimiser and its hyperparameters.
        transforms: Transforms of the model: adapters, frozen parts, gradient checkpointing.
        isolate: Whether batches carry document ids, for which lavra's decoder needs an attention mask.
        whole_logits: Whether all logits of a micro-batch are held at once, as a plain training loop does, instead of a
            chunk at a time.
        gpu: Whether the loss is computed in the chunks that a GPU uses.
        micro_batches: Number of micro-batches of a step: 2 with gradient accumulation, 1 without.
        attention: Attention implementation of a `transformers` model: `sdpa`, or `eager`, which holds all scores.
        source_context: Length of a source in tokens, for an encoder-decoder of lavra's own; 0 means `context`.
        perturbs: Whether a step takes a second gradient at perturbed weights, as sharpness-aware minimisation does.
        predicted: Share of the positions that are targets, at which alone the head is computed.
        generator: Width of a generator that learns beside the model, as a share of the model's; 0 for none.
    """

    model: DecoderSpec | Path
    context: int
    precision: Precision = "fp32"
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    transforms: TransformConfig = field(default_factory=TransformConfig)
    isolate: bool = True
    whole_logits: bool = False
    gpu: bool = False
    micro_batches: int = 2
    attention: str = "sdpa"
    source_context: int = 0
    perturbs: bool = False
    predicted: float = 1.0
    generator: float = 0.0

    @classmethod
    def of_plan(cls, plan: Plan, model: DecoderSpec | Path, *, perturbs: bool = False) -> DryRun:
        """Return the dry run of a step of a plan.

        Args:
            plan: Plan of the run.
            model: Shape of its model, or the folder of one of `transformers`.
            perturbs: Whether a technique of the run perturbs the weights.
        """
        return cls(
            model,
            round(plan.context * plan.growth),
            plan.precision,
            plan.optimizer,
            plan.transforms,
            plan.isolate,
            gpu=plan.device == "cuda",
            micro_batches=min(2, max(1, plan.global_batch_size // plan.micro_batch_size)),
            source_context=plan.source_context,
            perturbs=perturbs,
            predicted=plan.predicted,
            generator=plan.facts.get("generator_share", 0.0),
        )

    def trainer(
        self,
        micro_batch_size: int,
        make: Callable[[], nn.Module] | None = None,
        device: torch.device = torch.device("cpu"),  # noqa: B008 - a plain value
    ) -> Trainer:
        """Return the trainer of the dry run; inside `fake_tensors` it takes no memory.

        Args:
            micro_batch_size: Number of sequences of a micro-batch.
            make: Function that returns the model, to measure one with real values; None builds it from `model`.
            device: Device that holds the model and computes. Fake tensors are on the CPU.
        """
        from lavra.models.replaced_tokens import attach_generator
        from lavra.models.transforms.apply import apply_transforms
        from lavra.training.optimizers.schedules import Schedule
        from lavra.training.trainer import Trainer
        from lavra.training.updates import Clip, SharpnessAware

        model: Any = bare_model(self.model, self.attention) if make is None else make()
        model.train()
        apply_transforms(model, self.transforms)
        if self.generator:
            attach_generator(model, self.generator, drawn=False)
        objective: Any = self._objective()
        return Trainer(
            model,
            objective,
            _Batches(self, micro_batch_size),
            optimizer=self.optimizer,
            schedule=Schedule(),
            precision=self.precision,
            device=device,
            steps=10,
            updates=[*([SharpnessAware(0.05)] if self.perturbs else []), Clip(1.0)],
        )

    def _objective(self) -> Any:
        """Return what the model learns: the objective of the plan, on random tokens."""
        from lavra.objectives.causal import Causal

        if self.whole_logits:
            return _WholeLogits()
        if self.generator:
            return _ReplacedTokens(self.context, self.predicted)
        return Causal(self.context, self.isolate) if self.predicted >= 1.0 else _AtTargets()


def bare_model(model: DecoderSpec | Path, attention: str = "sdpa") -> nn.Module:
    """Return a model of a given shape, without loading weights; its tensors are made on torch's current device.

    Args:
        model: Shape of lavra's own decoder, or a Hugging Face model folder with a `config.json`.
        attention: Attention implementation of a `transformers` model: `sdpa` or `eager`.

    Raises:
        InputError: if the folder does not contain the configuration of a language model.
    """
    if isinstance(model, DecoderSpec):
        return decoder_of(model)
    return HubShape(model, attention)


class HubShape(nn.Module):
    """A `transformers` model built from its configuration alone, behind the model protocol; for shapes, not for use.

    Args:
        folder: Model folder with a `config.json`.
        attention: Attention implementation: `sdpa` or `eager`.
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
        """Return the (batch, length, width) features that the head receives.

        An encoder-decoder model receives the inputs of the batch in its encoder and in its decoder.
        """
        arguments: dict[str, Any] = {"input_ids": batch.inputs}
        if self.kind == "encoder-decoder":
            arguments["decoder_input_ids"] = batch.inputs
        if self.kind != "encoder":
            arguments["use_cache"] = False
        found: list[torch.Tensor] = []

        def capture(_: nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
            found.append(given[0])
            return (given[0][:, :0],)  # an empty sequence, so that no logits are computed

        handle = self.inner.get_output_embeddings().register_forward_pre_hook(capture)
        try:
            self.inner(**arguments)
        finally:
            handle.remove()
        return found[0]

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """Return (…, vocabulary) logits of (…, width) features."""
        weight, bias = self.output_projection()
        return nn.functional.linear(features, weight, bias)

    def output_projection(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the weight and bias of the head."""
        head = self.inner.get_output_embeddings()
        return head.weight, head.bias

    @property
    def vocabulary(self) -> int:
        """Vocabulary size: the number of rows of the head."""
        return self.inner.get_output_embeddings().weight.shape[0]

    @property
    def context(self) -> int:
        """Longest sequence in tokens."""
        return int(self.longest)


class _WholeLogits:
    """The causal objective of a plain training loop: all logits of the micro-batch at once, cross-entropy in fp32."""

    def loss(self, model: Any, batch: Batch) -> Any:
        from lavra.objectives.base import Loss

        logits = model.head(model.features(batch)).float()
        total = nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="sum")
        return Loss(total, batch.weight)


class _AtTargets:
    """The loss of an objective that predicts a part of the positions."""

    def loss(self, model: Any, batch: Batch) -> Any:
        from lavra.objectives.base import loss_at_targets

        return loss_at_targets(model, batch, 0.0)


class _ReplacedTokens:
    """The loss of replaced-token detection, with as many hidden positions as a batch has on average.

    Args:
        context: Length of a sequence in tokens.
        rate: Share of the positions that are hidden.
    """

    def __init__(self, context: int, rate: float) -> None:
        from lavra.objectives.replaced_tokens import ReplacedTokens

        class WithKnownPlaces(ReplacedTokens):
            """The objective, whose number of hidden positions does not depend on values, which a dry run lacks."""

            def hidden_places(self, batch: Batch) -> torch.Tensor:
                hidden = max(1, round(rate * batch.inputs.numel()))
                return torch.arange(hidden, device=batch.inputs.device) * (batch.inputs.numel() // hidden)

        masked: Any = None  # it hides words where a batch is encoded, and those of a dry run are
        self.inner = WithKnownPlaces(masked, context)
        self.rate = rate

    def loss(self, model: Any, batch: Batch) -> Any:
        from lavra.objectives.replaced_tokens import DRAWS, ORIGINAL, RATE

        batch.model_inputs = {
            DRAWS: torch.rand(batch.inputs.shape, device=batch.inputs.device),
            ORIGINAL: batch.inputs,
            RATE: torch.tensor(self.rate, device=batch.inputs.device),
        }
        return self.inner.loss(model, batch)


class _Batches:
    """Batches of random tokens with the shapes of the run."""

    def __init__(self, dry_run: DryRun, micro_batch_size: int) -> None:
        self.dry_run, self.micro_batch_size = dry_run, micro_batch_size
        self.share, self.seed, self.steps, self.distributed = (
            micro_batch_size * dry_run.micro_batches,
            0,
            10,
            DistributedInfo(),
        )

    def micro_batches(self, step: int) -> list[Batch]:
        """Return the micro-batches of a step; step 0, which only creates the state of the optimiser, has one."""
        model, shape = self.dry_run.model, (self.micro_batch_size, self.dry_run.context)
        isolate = self.dry_run.isolate and isinstance(model, DecoderSpec)
        reads = isinstance(model, DecoderSpec) and model.architecture == "encoder-decoder"
        # Of the targets the first are taken, as many as the weight says.
        share = 1.0 if self.dry_run.generator else min(1.0, self.dry_run.predicted)
        return [
            Batch(
                torch.randint(0, _IDS, shape),
                torch.randint(0, _IDS, shape),
                torch.zeros(shape, dtype=torch.int32) if isolate else None,
                torch.zeros(shape, dtype=torch.int64) if isolate else None,
                weight=float(max(1, round(share * shape[0] * shape[1]))),
                model_inputs=self._sources() if reads else {},
            )
            for _ in range(self.dry_run.micro_batches if step else 1)
        ]

    def _sources(self) -> dict[str, torch.Tensor]:
        """Return the inputs of an encoder, one document for each sequence."""
        shape = self.micro_batch_size, self.dry_run.source_context or self.dry_run.context
        return {
            "encoder_inputs": torch.randint(0, _IDS, shape),
            "encoder_document_ids": torch.zeros(shape, dtype=torch.int32),
            "encoder_positions": torch.zeros(shape, dtype=torch.int64),
        }

    def close(self) -> None:
        """Do nothing: random batches hold nothing."""


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Make every tensor that is created in the block a fake tensor, without values and memory.

    `Module.to` is replaced during the block: the original exchanges fake parameters for new ones, which fails because
    the fake mode holds references to them. The replacement changes the dtype in place.
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
    """Let the loss use the chunk size of a GPU during the block, although fake tensors are on the CPU.

    Args:
        wanted: Whether to change the chunk size at all.
    """
    from lavra.objectives import cross_entropy

    before = cross_entropy.CPU_CHUNK_BYTES
    if wanted:
        cross_entropy.CPU_CHUNK_BYTES = cross_entropy.GPU_CHUNK_BYTES
    try:
        yield
    finally:
        cross_entropy.CPU_CHUNK_BYTES = before
