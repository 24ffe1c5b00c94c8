"""The base model of a training run: the pretrained model that a request names, fitted to the request."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lavra.config.training import ModelConfig, TrainConfig
from lavra.core.disk.files import write_json
from lavra.core.errors import CheckFailed, InputError
from lavra.core.progress import log
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.models.certificate import FILE, certify
from lavra.models.hf.model import HFModel, set_dropout
from lavra.models.hf.warm_start import folder_with_decoder
from lavra.models.native.building import count_parameters
from lavra.models.native.decoder import Decoder
from lavra.models.native.store import decoder_from
from lavra.models.spec import DecoderSpec
from lavra.models.transforms.positions import weights_without_head
from lavra.objectives.room import Room
from lavra.planning.machine.flops import training_flops_per_token
from lavra.tasks.base import ModelKind, Task
from lavra.tasks.datasets import DataDescription
from lavra.tasks.table import choose_task, tasks
from lavra.workflows.models.known_certificates import certificate_key, keep_certificate, known_certificate
from lavra.workflows.models.open import OpenModel, open_model
from lavra.workflows.models.saved_base import BASE
from lavra.workflows.models.static_base import is_static, open_static, rate_of_static
from lavra.workflows.models.surgery import Surgery, operated_model

WINDOW = {"cpu": 512, "mps": 512, "cuda": 1024}
"""Default context length in tokens, by device, where the model could read more."""

_SOURCE_WINDOW = 512
"""Default lengths in tokens of the source and of the target of an encoder-decoder."""
_TARGET_WINDOW = 256

ADDED_DECODER_RATE = 3e-4
"""AdamW's rate for an encoder with a new decoder: higher than usual, because its cross-attention is untrained."""

_SHAPE = (
    "architecture",
    "depth",
    "width",
    "heads",
    "kv_heads",
    "window",
    "global_every",
    "norm",
    "norm_placement",
    "deepnorm",
    "normformer",
    "value_residual",
    "shared_blocks",
    "own_norms",
    "attention_cap",
    "logit_cap",
    "experts",
    "experts_per_token",
    "shared_experts",
    "expert_normalized",
    "balance_loss",
    "balance_bias",
    "activation",
    "tied",
)
"""Fields of the request that describe a new model, and that a pretrained model does not allow."""

_CERTIFIED_TOKENS = 512
"""Most tokens whose logits are compared with those of `transformers`, and most logits, so that memory stays small."""
_CERTIFIED_LOGITS = 32_000_000


@dataclass(frozen=True)
class Base:
    """A pretrained model to adapt.

    Attributes:
        place: The location of the model.
        task: The task that it will be trained for.
        objective: The name of the objective.
        window: Tokens of text in a sequence.
        source_window: Tokens of a source sequence, for an encoder-decoder; 0 for other models.
        spec: The shape of the model; None for a model of `transformers`.
        parameters: Number of parameters of the model, shared ones counted once.
        depth: Number of blocks.
        width: Size of the hidden states.
        supports_packing: Whether the model can keep the documents of one sequence apart.
        flops_per_token: FLOPs of a training step for each token that is read, if every one is predicted.
        tokenizer: The model's own tokenizer.
        opened: The model itself; None where only its shape was read, for a plan.
        another_vocabulary: Whether its vocabulary was changed for this run, so that rows of its embedding are new.
        surgery: What was changed in its positions; None for nothing.
        room: What the objective makes of a text; None for a text as it is.
        rate: AdamW's usual rate where it is not that of the task: for an encoder with a new decoder, and for static
            vectors; None for others.
    """

    place: str
    task: Task
    objective: str
    window: int
    source_window: int
    spec: DecoderSpec | None
    parameters: int
    depth: int
    width: int
    supports_packing: bool
    flops_per_token: float
    tokenizer: Tokenizer
    opened: OpenModel | None = None
    another_vocabulary: bool = False
    surgery: Surgery | None = None
    room: Room | None = None
    rate: float | None = None

    @property
    def model(self) -> Decoder | HFModel:
        """The model itself."""
        assert self.opened is not None
        return self.opened.model


def read_base(config: TrainConfig, device: torch.device, data: DataDescription) -> Base:
    """Open the pretrained model that a request names.

    Args:
        config: The request, whose `base` is the location of the model.
        device: The device that will train it, which decides the default length of sequences.
        data: What is known of the data.

    Returns:
        The model, with the task and the lengths of sequences.

    Raises:
        InputError: If there is no such model, or it cannot be trained as asked.
    """
    assert config.base is not None
    _refuse_shapes(config.model)
    opened, surgery = operated_model(
        open_static(config.base) or open_model(config.base, "cpu", new_head=True), config.model
    )
    rate = None
    if is_static(opened.model):
        assert isinstance(opened.model, Decoder)
        rate = rate_of_static(opened.model)
    elif writes_alone(config) and opened.model.kind == "encoder":
        opened, rate = _with_decoder(opened, config.seed), ADDED_DECODER_RATE
    model = opened.model
    kind: ModelKind = model.kind
    if opened.task is not None:  # its head froze what only predicting tokens uses
        unused = model.unused if isinstance(model, HFModel) else frozenset()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name not in unused)
    task, objective = choose_task(config.task, config.objective.name, kind, data, opened.place)
    if is_static(model) and task.rows == "text":
        raise InputError(
            f"{opened.place} holds static vectors, which predict no tokens",
            "give rows that vectors are learned from: pairs, scored pairs or margins, or bare text with --task "
            "embedding --objective simcse",
        )
    window, source = windows_of(config, model.context, is_rotary(model), kind, device)
    wanted = window
    if kind == "encoder-decoder" and task.rows == "text":  # what is read and what is written are one text
        wanted = config.objective.source_context or config.model.context or source
    limit = None if is_rotary(model) else model.context
    room = task.room(config.objective, objective, kind, wanted, limit, base=model)
    usual, asked = task.usual_dropout(objective), config.model.dropout
    dropout = usual if asked is None else asked
    if isinstance(model, Decoder):
        longest = max(room.model_context, source)  # a source is 0 but for an encoder-decoder
        fitted = _fitted(model, longest, dropout, room.bidirectional)
        opened = replace(opened, model=fitted)
    else:
        set_dropout(model, dropout)
    found = base_of(opened, task, objective, room.context, source)
    return replace(found, surgery=surgery, room=room, rate=rate)


def writes_alone(config: TrainConfig) -> bool:
    """Return whether the task or the objective that a request names is for models that write, and for no encoder.

    Args:
        config: The request.
    """
    task, objective = config.task, config.objective.name
    if task == "auto" and objective == "auto":
        return False
    asked = [one for one in tasks() if task in ("auto", one.name) and objective in ("auto", *one.objectives)]
    return any("encoder-decoder" in one.kinds for one in asked) and not any("encoder" in one.kinds for one in asked)


def _with_decoder(opened: OpenModel, seed: int) -> OpenModel:
    """Return an encoder with a decoder added to it, because it is to write."""
    if opened.folder is None or isinstance(opened.model, Decoder):
        raise InputError(
            f"{opened.place} is an encoder of lavra's own, to which no decoder can be added",
            "give an encoder of transformers (BERT, RoBERTa, XLM-R, E5, …), or an encoder-decoder",
        )
    return replace(open_model(str(folder_with_decoder(opened.folder, seed)), "cpu"), place=opened.place)


def base_of(opened: OpenModel, task: Task, objective: str, window: int, source_window: int) -> Base:
    """Return an opened model as the base of a run.

    Args:
        opened: The model, its tokenizer and its location.
        task: The task that it will be trained for.
        objective: The name of the objective.
        window: Tokens of a sequence.
        source_window: Tokens of a source sequence, for an encoder-decoder; 0 for other models.
    """
    model = opened.model
    if isinstance(model, Decoder):
        spec, depth, width = model.spec, model.spec.depth, model.spec.width
        flops = training_flops_per_token(model.spec, window, source=source_window)
    else:
        spec, config = None, model.inner.config.get_text_config()
        depth, width = getattr(config, "num_hidden_layers", 24), getattr(config, "hidden_size", 1024)
        flops = linear_flops(model)
    return Base(
        opened.place,
        task,
        objective,
        window,
        source_window,
        spec,
        count_parameters(model),
        int(depth),
        int(width),
        isinstance(model, Decoder) or model.supports_packing,
        flops,
        opened.tokenizer,
        opened,
    )


def linear_flops(model: nn.Module) -> float:
    """Return the FLOPs of a training step for each token in the linear layers of a model.

    They are two for a weight in the forward pass and four in the backward pass (Kaplan et al., arXiv 2001.08361).
    """
    return 6.0 * sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, nn.Linear))


def is_rotary(model: Decoder | HFModel) -> bool:
    """Return whether a model can read longer sequences than it was made for, because its positions are not learned."""
    return isinstance(model, Decoder) and model.spec.positions != "learned"


def _refuse_shapes(asked: ModelConfig) -> None:
    given = [name for name in _SHAPE if getattr(asked, name) is not None]
    if asked.preset != "auto":
        given.insert(0, "preset")
    if given:
        raise InputError(
            f"--model.{given[0].replace('_', '-')} and --from both say which shape the model has",
            "a pretrained model keeps its shape; leave one of them out",
        )


def windows_of(
    config: TrainConfig, longest: int, rotary: bool, kind: ModelKind, device: torch.device
) -> tuple[int, int]:
    """Return the tokens of a sequence, and those of a source sequence (0 where there is none).

    Args:
        config: The request.
        longest: Largest number of tokens of a sequence that the model was made for.
        rotary: Whether it can read longer ones.
        kind: The kind of the model.
        device: The device that will train it.

    Raises:
        InputError: If the request asks for more than the model has positions.
    """
    usual = _TARGET_WINDOW if kind == "encoder-decoder" else WINDOW.get(device.type, 512)
    window = config.model.context or min(longest, usual)
    source = 0
    if kind == "encoder-decoder":
        source = config.objective.source_context or min(longest, _SOURCE_WINDOW)
    for flag, asked in (("--context", window), ("--objective.source-context", source)):
        if asked > longest and not rotary:
            raise InputError(f"{flag} {asked} is more than the {longest} positions of the model", f"use {longest}")
    return window, source


def _fitted(model: Decoder, window: int, dropout: float | None, bidirectional: bool) -> Decoder:
    """Return the decoder with the dropout that was asked for, with longer sequences where its position encoding allows
    them, and with the attention within a prefix that it will learn."""
    spec = replace(
        model.spec,
        dropout=dropout or 0.0,
        context=max(model.spec.context, window),
        prefix_attention=bidirectional or model.spec.prefix_attention,
    )
    return model if spec == model.spec else decoder_from(spec, weights_without_head(model), "the base model")


def certify_base(run: Path, base: Base, tokens: np.ndarray) -> None:
    """Prove that a pretrained model was read correctly, by its logits against `transformers` in a fresh process.

    Args:
        run: The folder of the run, which gets the certificate.
        base: The base model. Only one that was read from a Hugging Face folder into lavra's own decoder is compared, as
            it was before a surgery.
        tokens: (length,) ids of the training text, on which the logits are compared.

    Raises:
        CheckFailed: If the logits differ.
    """
    opened = base.opened
    if opened is None or opened.folder is None or not isinstance(opened.model, Decoder):
        return
    model = opened.model if base.surgery is None else base.surgery.before
    key = certificate_key(opened.folder)
    if (known := known_certificate(key)) is not None:
        write_json(run / BASE / FILE, known.to_json())
        log(f"{known}\n  proved by an earlier run with these files on this machine")
        return
    length = min(_CERTIFIED_TOKENS, max(16, _CERTIFIED_LOGITS // model.spec.vocabulary), base.window, model.context)
    certificate = certify(model.eval(), opened.folder, [tokens[:length].tolist()])
    write_json(run / BASE / FILE, certificate.to_json())
    if not certificate.holds:
        raise CheckFailed(f"{opened.folder} is not read as transformers reads it:\n{certificate}", "report this")
    keep_certificate(key, certificate)
    log(str(certificate))
