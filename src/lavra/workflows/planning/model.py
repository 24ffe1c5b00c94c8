"""The model of a plan, which the request names by a preset, a shape, a folder or a run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

from lavra.config.planning import PlanRequest
from lavra.core.errors import InputError
from lavra.data.tokenizers.tokenizer import Tokenizer
from lavra.models.families.importing import is_hugging_face_folder, read_config
from lavra.models.families.registry import FAMILIES, family_of
from lavra.models.hf.kinds import choose_kind
from lavra.models.native.building import count_parameters, parameters_of
from lavra.models.native.decoder import Decoder
from lavra.models.native.store import SPECIFICATION, read_spec
from lavra.models.presets import PRESETS, named_vocabulary
from lavra.models.spec import DecoderSpec
from lavra.models.transforms.positions import operated_spec
from lavra.planning.forecast import Shape
from lavra.planning.machine.dry_run import HubShape
from lavra.planning.machine.flops import matrix_parameters, training_flops_per_token
from lavra.tasks.base import Task
from lavra.tasks.datasets import DataDescription
from lavra.tasks.table import FROM_SCRATCH, choose_task, kind_from_scratch
from lavra.workflows.datasets.preparation import describe_data
from lavra.workflows.models.base_model import Base, linear_flops, windows_of
from lavra.workflows.models.open import hugging_face_folder, open_model


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
            "train it as it is: lavra train DATA --from MODEL",
        )
    return Start(shape_of_folder(folder), Tokenizer.load(folder))


def asked_shape(request: PlanRequest) -> DecoderSpec | Path | None:
    """Return the model to train from scratch where the request names a folder of its shape.

    Args:
        request: The request of the plan.

    Returns:
        The shape of a run's or of a known family's decoder, the folder of any other model of `transformers`, and None
        where the request names no folder.

    Raises:
        InputError: If the folder holds no model.
    """
    path = Path(request.model.preset)
    for folder in (path, path / "model"):
        if (folder / SPECIFICATION).exists():
            return read_spec(folder)
    if is_hugging_face_folder(path):
        return shape_of_folder(path)
    if request.model.preset not in PRESETS and path.exists():
        raise InputError(f"{path} does not hold a model", "give a folder with a config.json, a run, or a preset")
    return None


def shape_of_folder(folder: Path) -> DecoderSpec | Path:
    """Return the shape of a Hugging Face folder as lavra's own decoder where it would train that; else the folder."""
    config = read_config(folder)
    if config.get("model_type") not in FAMILIES or choose_kind(config, folder) != "decoder":
        return folder
    try:
        return family_of(config, str(folder)).read_spec(config)
    except InputError:  # an option that only transformers computes
        return folder


def planned_task(request: PlanRequest) -> tuple[Task, str]:
    """Return the task of a request and its objective.

    Args:
        request: The request of the plan.

    Raises:
        InputError: If it is another task than learning from text, which alone can be planned.
    """
    described = describe_data(request) if request.data else DataDescription()
    task, objective = choose_task(
        request.task, request.objective.name, kind_from_scratch(request), described, FROM_SCRATCH
    )
    if task.rows != "text":
        raise InputError(
            f"the data or the request are for the task {task.name}, and only learning from text can be planned",
            "train on it as it is, with a budget: lavra train DATA --budget 20m",
        )
    return task, objective


def outline_of(
    request: PlanRequest, model: DecoderSpec | Path, place: str, device: torch.device, task: Task, objective: str
) -> Base:
    """Return a model as the base of a run, from its shape alone: no weights are read.

    Args:
        request: The request of the plan.
        model: The shape of the decoder, or the Hugging Face folder of another model.
        place: The location of the model.
        device: The device that would train it, which decides the default length of sequences.
        task: The task that it would be trained for.
        objective: The name of the objective.
    """
    if isinstance(model, DecoderSpec) and request.base is not None:  # what training would change before the first step
        asked = request.model
        model, _ = operated_spec(model, asked.positions, asked.context, asked.extension or "auto")
    rotary = isinstance(model, DecoderSpec) and model.positions != "learned"
    shape = described(model, place)
    window, _ = windows_of(request, shape.context, rotary, "decoder", device)
    room = task.room(request.objective, objective, "decoder", window, None if rotary else shape.context, base=model)
    if isinstance(model, DecoderSpec):
        spec = replace(model, context=max(model.context, room.model_context))
        flops = training_flops_per_token(spec, room.context)
    else:
        spec = None
        with torch.device("meta"):
            flops = linear_flops(HubShape(model))
    tokenizer = starting_model(place).tokenizer if request.base is not None else Tokenizer.load(Path(place))
    return Base(
        place,
        task,
        objective,
        room.context,
        0,
        spec,
        shape.parameters,
        shape.depth,
        shape.width,
        True,
        flops,
        tokenizer,
        room=room,
    )


def shape_name(asked: str, model: DecoderSpec) -> str:
    """Return the name of a shape: as it was asked for, and with its vocabulary where that is not what the name says.

    Args:
        asked: The name of the model in the request; "auto" if the plan chose it.
        model: The shape of the decoder.

    Examples:
        >>> shape_name("gpt2-124m", DecoderSpec(vocabulary=8768)), shape_name("auto", DecoderSpec(depth=4, width=192))
        ('gpt2-124m with another vocabulary', '4x192')
    """
    if asked == "auto":
        return f"{model.depth}x{model.width}"
    said = named_vocabulary(asked)
    return asked if said in (None, model.vocabulary) else f"{asked} with another vocabulary"


def described(model: DecoderSpec | Path, asked: str) -> Shape:
    """Return the figures by which a person recognises a model: name, parameters, vocabulary, context, depth, width.

    Args:
        model: The shape of a decoder, or a Hugging Face folder.
        asked: The name of the model in the request; "auto" if the plan chose it.
    """
    if isinstance(model, DecoderSpec):
        return Shape(
            shape_name(asked, model),
            parameters_of(model),
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
