"""The model of a plan, which the request names by a preset, a shape, a folder or a run."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

from lavra.config.planning import PlanRequest
from lavra.core.errors import InputError
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.models.families.importing import is_hugging_face_folder, read_config
from lavra.models.hf.kinds import choose_kind
from lavra.models.native.decoder import Decoder, count_parameters
from lavra.models.native.store import SPECIFICATION, read_spec
from lavra.models.spec import PRESETS, DecoderSpec, preset
from lavra.planning.forecast import Shape
from lavra.planning.machine.dry_run import HubShape
from lavra.planning.machine.flops import matrix_parameters
from lavra.workflows.models.open import hugging_face_folder, open_model

_HEAD = 64
"""Width of an attention head, where a shape DEPTHxWIDTH does not say how many heads there are."""


@dataclass(frozen=True)
class Start:
    """The base model of a plan.

    Attributes:
        model: The shape of the model, or its Hugging Face folder.
        tokenizer: The tokenizer of the model.
    """

    model: DecoderSpec | Path
    tokenizer: Tokenizer


@cache
def starting_model(location: str) -> Start:
    """Return the shape and the tokenizer of a pretrained model; the weights of a Hugging Face folder are not read.

    Args:
        location: The location of the model: a run, a Hugging Face folder or a hub name.

    Raises:
        InputError: If there is no such model, or it is not a decoder; only causal language modelling can be planned.
    """
    folder = hugging_face_folder(location)
    if folder is None:
        opened = open_model(location, "cpu")
        if isinstance(opened.model, Decoder):
            return Start(opened.model.spec, opened.tokenizer)
        folder = opened.folder or Path(location) / "model"
    kind = choose_kind(read_config(folder), folder)
    if kind != "decoder":
        raise InputError(
            f"{location} is an {kind}, and only the training of decoders on text can be planned",
            "plan for its shape instead: lavra plan --model FOLDER --tokens 10M",
        )
    return Start(folder, Tokenizer.load(folder))


def model_of(request: PlanRequest) -> DecoderSpec | Path | None:
    """Return the model that a request names, to train or to adapt.

    Args:
        request: The request of the plan.

    Returns:
        The shape of the model, or its Hugging Face folder; None where the plan is to choose.

    Raises:
        InputError: If there is no such model.
    """
    return asked_model(request.model) if request.base is None else starting_model(request.base).model


def asked_model(name: str) -> DecoderSpec | Path | None:
    """Return the model that a name stands for.

    Args:
        name: A preset, a shape DEPTHxWIDTH or DEPTHxWIDTHxVOCABULARY, a folder, or "auto".

    Returns:
        The shape of the model, or its Hugging Face folder; None for "auto", where the plan is to choose.

    Raises:
        InputError: If the name stands for no model.

    Examples:
        >>> spec = asked_model("8x512")
        >>> spec.depth, spec.width, spec.heads
        (8, 512, 8)
    """
    if name == "auto":
        return None
    path = Path(name)
    for folder in (path, path / "model"):
        if (folder / SPECIFICATION).exists():
            return read_spec(folder)
    if is_hugging_face_folder(path):
        return path
    sizes = re.fullmatch(r"(\d+)x(\d+)(?:x(\d+))?", name)
    if sizes:
        depth, width = int(sizes[1]), int(sizes[2])
        heads = next(heads for heads in range(max(1, width // _HEAD), 0, -1) if width % heads == 0)
        spec = DecoderSpec(depth=depth, width=width, heads=heads)
        return replace(spec, vocabulary=int(sizes[3])) if sizes[3] else spec
    if name not in PRESETS and path.exists():
        raise InputError(f"{name} does not hold a model", "give a folder with a config.json, a run, or a preset")
    return preset(name)


def with_context(model: DecoderSpec | Path, context: int | None) -> DecoderSpec | Path:
    """Return the model with another context length.

    Args:
        model: The shape of a decoder, or a Hugging Face folder.
        context: Tokens of a sequence; None keeps the model's own.

    Returns:
        The shape with that context length. A folder is returned as it is: its model is given shorter sequences.
    """
    return replace(model, context=context) if context and isinstance(model, DecoderSpec) else model


def described(model: DecoderSpec | Path, asked: str) -> Shape:
    """Return the figures by which a person recognises a model: name, parameters, vocabulary, context, depth, width.

    Args:
        model: The shape of a decoder, or a Hugging Face folder.
        asked: The name of the model in the request; "auto" if the plan chose it.
    """
    if isinstance(model, DecoderSpec):
        with torch.device("meta"):
            parameters = count_parameters(Decoder(model))
        return Shape(
            f"{model.depth}x{model.width}" if asked == "auto" else asked,
            parameters,
            matrix_parameters(model),
            model.vocabulary,
            model.context,
            model.depth,
            model.width,
            asked == "auto",
        )
    with torch.device("meta"):
        network = HubShape(model)
    config = network.inner.config
    embeddings = network.inner.get_input_embeddings().weight.numel()
    parameters = count_parameters(network)
    tied = network.inner.get_output_embeddings().weight is network.inner.get_input_embeddings().weight
    return Shape(
        str(model),
        parameters,
        parameters if tied else parameters - embeddings,
        network.vocabulary,
        network.context,
        int(getattr(config, "num_hidden_layers", 0) or 0),
        int(getattr(config, "hidden_size", 0) or 0),
        False,
    )
