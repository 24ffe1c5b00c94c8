"""The head of replaced-token detection (ELECTRA): a small generator, and what says which tokens it replaced.

The generator is an encoder that fills in hidden tokens, narrower than the model beside it and as deep. It has no
embedding and no output projection of its own: both are those of the model, as in the paper (Clark et al. 2020,
arXiv 2003.10555, section 3.2). It learns beside the model, is a part of its checkpoints, and is thrown away then.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lavra.core.errors import InputError
from lavra.models.heads import Head, attach_head, width_of
from lavra.models.native.attention import takes_documents
from lavra.models.native.decoder import Decoder
from lavra.models.spec import DecoderSpec

if TYPE_CHECKING:
    from lavra.models.hf.model import HFModel
    from lavra.models.protocols import Batch, Model

_STEP = 8
"""Widths of heads and of the MLP of a generator are multiples of this number."""


def generator_spec(spec: DecoderSpec, share: float, embedding: int | None = None) -> DecoderSpec:
    """Return the shape of the generator beside an encoder: as deep, and narrower.

    Args:
        spec: Shape of the encoder.
        share: Width of the generator as a share of that of the encoder, above 0 and at most 1; heads and MLP shrink
            with it. The paper has a quarter to a half.
        embedding: Width of the rows of the encoder's embedding; None for that of the specification.

    Raises:
        InputError: If the share is not above 0 and at most 1.

    Examples:
        >>> shape = generator_spec(DecoderSpec(architecture="encoder", width=256, heads=4), 0.25)
        >>> shape.width, shape.heads, shape.hidden_width, shape.embedding_width
        (64, 1, 256, 256)
    """
    if not 0.0 < share <= 1.0:
        raise InputError(
            f"--objective.generator-share {share:g} is not possible", "choose more than 0 and at most 1, such as 0.25"
        )
    heads = max(1, round(spec.heads * share))
    return replace(
        spec,
        width=heads * _rounded(spec.heads * spec.size_of_head * share / heads),
        heads=heads,
        kv_heads=0,
        head_width=0,
        mlp_width=_rounded(spec.hidden_width * share),
        embedding_width=embedding or spec.size_of_embedding,
        tied=True,  # the output projection is the model's, and none is to be drawn
        head_bias=False,
        output_scale=1.0,
        bigram_embedding=0,
        experts=0,
        shared_experts=0,
        balance_loss=0.0,
        balance_bias=False,
    )


def _rounded(width: float) -> int:
    return max(_STEP, round(width / _STEP) * _STEP)


class Generator(Decoder):
    """An encoder that reads embeddings of another model and returns features for that model's output projection.

    Args:
        spec: Shape of the generator, see `generator_spec`.
    """

    def __init__(self, spec: DecoderSpec) -> None:
        super().__init__(spec)
        del self.embedding, self.output

    def _attends_by_documents(self, device: torch.device) -> bool:
        """Return whether attention over packed documents needs no dense mask on this device."""
        spec = self.spec
        if spec.positions in ("alibi", "relative") or (spec.dropout and self.training):
            return False
        return takes_documents(device, next(self.parameters()).dtype, spec.size_of_head)


class ReplacedTokenHead(Head):
    """Says of each token whether it was replaced: one linear layer, as in the paper; with it goes the generator.

    Args:
        width: Size of the features of the model.
        generator: Shape of the generator, as plain values.
    """

    kind = "replaced-tokens"

    def __init__(self, width: int, generator: dict[str, Any]) -> None:
        super().__init__(width, generator=generator)
        self.output = nn.Linear(width, 1)
        self.generator = Generator(DecoderSpec.from_dict(generator))

    def forward(self, features: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the log-odds that each token was replaced, (sequences, length)."""
        return self.output(features.to(self.output.weight.dtype))[..., 0]

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Draw fresh weights: those of the generator as of any encoder, and a small linear layer.

        Args:
            generator: Random generator on the CPU; None takes a new one that the global one seeds.
        """
        if generator is None:
            generator = torch.Generator("cpu").manual_seed(int(torch.randint(2**62, ())))
        # So small that the odds begin even, however large the features of a base model are.
        nn.init.normal_(self.output.weight, std=0.02 * self.width**-0.5, generator=generator)
        nn.init.zeros_(self.output.bias)
        self.generator.initialize(generator)


def attach_generator(model: Model, share: float, *, drawn: bool = True) -> None:
    """Give an encoder the head of replaced-token detection, and let its output projection learn with the generator.

    Args:
        model: An encoder: lavra's own, or one of `transformers`.
        share: Width of the generator as a share of that of the encoder.
        drawn: Whether fresh weights are drawn; a dry run needs none.

    Raises:
        InputError: If the rows of the model's embedding and of its output projection have different widths, so that
            one generator cannot work with both.
    """
    projection = _projection_of(model)
    embedding = int(projection.weight.shape[1])
    ids = torch.zeros(1, 1, dtype=torch.int64, device=projection.weight.device)
    if model.embed(ids).shape[-1] != embedding:
        raise InputError(
            f"the embedding of this model has rows of {model.embed(ids).shape[-1]}, and its output projection of "
            f"{embedding}: a generator shares both",
            "use --objective mlm for this model",
        )
    head = ReplacedTokenHead(width_of(model), generator_spec(_spec_of(model), share, embedding).to_dict())
    if drawn:
        head.initialize()
    attach_head(model, head)
    for parameter in projection.parameters():
        parameter.requires_grad_(True)


def _projection_of(model: Any) -> nn.Linear:
    return model.output if isinstance(model, Decoder) else model.inner.get_output_embeddings()


def _spec_of(model: Any) -> DecoderSpec:
    """Return the shape of an encoder; of one of `transformers` the shape of an encoder of lavra's own size alike."""
    if isinstance(model, Decoder):
        return model.spec
    return outline_of_encoder(model)


def outline_of_encoder(model: HFModel) -> DecoderSpec:
    """Return the shape of an encoder of lavra's own that is as large as one of `transformers`.

    Args:
        model: An encoder of `transformers`.
    """
    config: Any = model.inner.config
    width = int(getattr(config, "hidden_size", None) or config.dim)
    heads = int(getattr(config, "num_attention_heads", None) or getattr(config, "n_heads", None) or max(1, width // 64))
    depth = int(getattr(config, "num_hidden_layers", None) or config.n_layers)
    hidden = int(getattr(config, "intermediate_size", None) or 4 * width)
    return DecoderSpec(
        architecture="encoder",
        vocabulary=model.vocabulary,
        context=model.context,
        depth=depth,
        width=width,
        heads=heads if width % heads == 0 else 1,
        mlp_width=hidden,
        norm="layernorm",
        norm_epsilon=1e-5,
        norm_weight=True,
        activation="gelu",
        qk_norm=False,
        embedding_norm_weight=True,
        initialization="gpt2",
    )
