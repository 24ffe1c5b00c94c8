"""The base model of a training run: the pretrained model that a request names, fitted to the request."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lavra.config.choices import ObjectiveName
from lavra.config.training import ModelConfig, TrainConfig
from lavra.core.disk.files import write_json
from lavra.core.errors import CheckFailed, InputError
from lavra.core.progress import log
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.models.certificate import FILE, certify
from lavra.models.hf.model import HFModel, set_dropout
from lavra.models.native.decoder import Decoder, count_parameters
from lavra.models.spec import DecoderSpec
from lavra.planning.machine.flops import training_flops_per_token
from lavra.workflows.models.open import OpenModel, open_model
from lavra.workflows.models.saved_base import BASE

WINDOW = {"cpu": 512, "mps": 512, "cuda": 1024}
"""Default context length in tokens, by device, where the model could read more."""

_SOURCE_WINDOW = 512
"""Default lengths in tokens of the source and of the target of an encoder-decoder."""
_TARGET_WINDOW = 256

_SHAPE = ("depth", "width", "heads", "kv_heads", "positions", "norm", "activation", "tied")
"""Fields of the request that describe a new model, and that a pretrained model does not allow."""

_CERTIFIED_TOKENS = 512
"""Most tokens whose logits are compared with those of `transformers`, and most logits, so that memory stays small."""
_CERTIFIED_LOGITS = 32_000_000


@dataclass(frozen=True)
class Base:
    """A pretrained model to adapt.

    Attributes:
        opened: The model, its tokenizer and its location.
        objective: The objective that it will be trained with.
        window: Tokens of a sequence.
        source_window: Tokens of a source sequence, for an encoder-decoder; 0 for other models.
    """

    opened: OpenModel
    objective: ObjectiveName
    window: int
    source_window: int

    @property
    def place(self) -> str:
        """The location of the model."""
        return self.opened.place

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's own tokenizer."""
        return self.opened.tokenizer

    @property
    def spec(self) -> DecoderSpec | None:
        """The shape of the model; None for a model of `transformers`."""
        model = self.opened.model
        return model.spec if isinstance(model, Decoder) else None

    @property
    def parameters(self) -> int:
        """The number of parameters of the model, shared ones counted once."""
        return count_parameters(self.opened.model)

    @property
    def supports_packing(self) -> bool:
        """Whether the model can keep the documents of one sequence apart."""
        return isinstance(self.opened.model, Decoder) or self.opened.model.supports_packing

    @property
    def flops_per_token(self) -> float:
        """FLOPs of a training step for each token."""
        if self.spec is not None:
            return training_flops_per_token(self.spec, self.window)
        # Two FLOPs for a weight in the forward pass, four in the backward pass (Kaplan et al., arXiv 2001.08361).
        return 6.0 * sum(layer.weight.numel() for layer in self.opened.model.modules() if isinstance(layer, nn.Linear))


def read_base(config: TrainConfig, device: torch.device, *, examples: bool) -> Base:
    """Open the pretrained model that a request names.

    Args:
        config: The request, whose `base` is the location of the model.
        device: The device that will train it, which decides the default length of sequences.
        examples: Whether the data are examples of which a part is predicted, rather than text.

    Returns:
        The model, with the objective and the lengths of sequences.

    Raises:
        InputError: If there is no such model, or it cannot be trained as asked.
    """
    assert config.base is not None
    _refuse_shapes(config.model)
    opened = open_model(config.base, "cpu")
    model = opened.model
    kind = model.kind if isinstance(model, HFModel) else "decoder"
    examples = examples or kind == "encoder-decoder"
    objective = _objective(config.objective.name, kind, examples, opened.place)
    window, source = _windows(config, model, kind, device)
    if isinstance(model, Decoder):
        opened = replace(opened, model=_fitted(model, window, config.model.dropout))
    else:
        set_dropout(model, config.model.dropout or 0.0)
    return Base(opened, objective, window, source)


def objective_from_nothing(asked: ObjectiveName, *, examples: bool) -> ObjectiveName:
    """Return the objective of a decoder that is trained from scratch.

    Args:
        asked: The objective that the request names, or "auto".
        examples: Whether the data are examples of which a part is predicted, rather than text.

    Raises:
        InputError: If the objective needs a model of another kind.
    """
    return _objective(asked, "decoder", examples, "a model trained from scratch")


def _objective(asked: ObjectiveName, kind: str, examples: bool, place: str) -> ObjectiveName:
    possible: dict[str, tuple[ObjectiveName, ...]] = {
        "decoder": ("completion",) if examples else ("causal",),
        "encoder": () if examples else ("mlm",),
        "encoder-decoder": ("seq2seq",),
    }
    found = possible[kind]
    what = "examples with a part to predict" if examples else "plain text"
    if not found:
        raise InputError(
            f"{place} is an {kind}, which cannot learn from {what}",
            "give rows with a source and a target" if kind == "encoder-decoder" else "give plain text",
        )
    if asked not in ("auto", *found):
        raise InputError(
            f"--objective {asked} does not fit: {place} is a {kind} and the data are {what}",
            f"use --objective {found[0]}, or leave it out",
        )
    return found[0]


def _refuse_shapes(asked: ModelConfig) -> None:
    given = [name for name in _SHAPE if getattr(asked, name) is not None]
    if asked.preset != "auto":
        given.insert(0, "preset")
    if given:
        raise InputError(
            f"--model.{given[0].replace('_', '-')} and --from both say which shape the model has",
            "a pretrained model keeps its shape; leave one of them out",
        )


def _windows(config: TrainConfig, model: Decoder | HFModel, kind: str, device: torch.device) -> tuple[int, int]:
    """Return the tokens of a sequence, and those of a source sequence (0 where there is none)."""
    longest = model.context
    usual = _TARGET_WINDOW if kind == "encoder-decoder" else WINDOW.get(device.type, 512)
    window = config.model.context or min(longest, usual)
    source = 0
    if kind == "encoder-decoder":
        source = config.objective.source_context or min(longest, _SOURCE_WINDOW)
    for flag, asked in (("--context", window), ("--objective.source-context", source)):
        rotary = isinstance(model, Decoder) and model.spec.positions != "learned"
        if asked > longest and not rotary:
            raise InputError(f"{flag} {asked} is more than the {longest} positions of the model", f"use {longest}")
    return window, source


def _fitted(model: Decoder, window: int, dropout: float | None) -> Decoder:
    """Return the decoder with the dropout that was asked for, and with longer sequences where its position encoding
    allows them."""
    spec = replace(model.spec, dropout=dropout or 0.0, context=max(model.spec.context, window))
    if spec == model.spec:
        return model
    changed = Decoder(spec)
    changed.load_state_dict(model.state_dict())
    return changed


def certify_base(run: Path, base: Base, tokens: np.ndarray) -> None:
    """Prove that a pretrained model was read correctly, by its logits against `transformers` in a fresh process.

    Args:
        run: The folder of the run, which gets the certificate.
        base: The base model. Only one that was read from a Hugging Face folder into lavra's own decoder is compared.
        tokens: (length,) ids of the training text, on which the logits are compared.

    Raises:
        CheckFailed: If the logits differ.
    """
    opened = base.opened
    if opened.folder is None or not isinstance(opened.model, Decoder):
        return
    length = min(_CERTIFIED_TOKENS, max(16, _CERTIFIED_LOGITS // opened.model.spec.vocabulary), base.window)
    certificate = certify(opened.model.eval(), opened.folder, [tokens[:length].tolist()])
    write_json(run / BASE / FILE, certificate.to_json())
    if not certificate.holds:
        raise CheckFailed(f"{opened.folder} is not read as transformers reads it:\n{certificate}", "report this")
    log(str(certificate))
