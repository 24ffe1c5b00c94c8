"""Exports a model with the head of a task as the class of `transformers` that has such a head."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from lavra.core.disk.files import read_json, write_json
from lavra.core.progress import log
from lavra.models.families.importing import CONFIG
from lavra.models.heads import ATTRIBUTE
from lavra.models.hf.kinds import quietly
from lavra.models.hf.model import HFModel
from lavra.models.native.decoder import Decoder
from lavra.models.reference import ATTENTION_KEYS, AUTOMATIC, attention_options

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KINDS = ("token", "span")
"""Kinds of heads that classes of `transformers` have in the same form: a linear layer on the last hidden states."""


def head_kind(model: Decoder | HFModel) -> str | None:
    """Return the kind of a model's head where `transformers` may have such a head; None for other models.

    Args:
        model: The model.
    """
    kind = getattr(getattr(model, ATTRIBUTE, None), "kind", None)
    return kind if kind in KINDS else None


def write_head_class(folder: Path, model: Decoder | HFModel, facts: Mapping[str, Any]) -> bool:
    """Turn the folder of a language model into one of the class with the head of its task.

    The names of the classes become `id2label` and `label2id` in the configuration.

    Args:
        folder: Hugging Face folder with the weights of the model, which is changed.
        model: The model with its head, whose kind is one of `KINDS`.
        facts: What the task knows of the data.

    Returns:
        Whether `transformers` has a class for it. Where it has none, that is said, and the folder stays as it is.
    """
    import transformers

    kind, family = head_kind(model), read_json(folder / CONFIG)["model_type"]
    assert kind is not None
    output = cast(nn.Linear, getattr(model, ATTRIBUTE).output)
    classes = facts.get("classes")
    names = {} if classes is None else {"num_labels": len(classes), "id2label": dict(enumerate(classes))}
    names |= {} if classes is None else {"label2id": {name: number for number, name in enumerate(classes)}}
    try:
        with quietly(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            opened, report = getattr(transformers, AUTOMATIC[kind]).from_pretrained(
                str(folder),
                dtype=output.weight.dtype,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                **names,
                **attention_options(str(folder)),
            )
    except ValueError:
        log(f"transformers has no class of the family {family} with such a head; the head is written beside the model")
        return False
    layer = _layer(opened, set(report["missing_keys"]), output)
    if layer is None:
        log(
            f"{type(opened).__name__} has more than a linear layer on the last hidden states; the head is written "
            "beside the model, and lavra alone reads it"
        )
        return False
    with torch.no_grad():
        layer.weight.copy_(output.weight)
        layer.bias.copy_(output.bias)
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    with quietly():
        opened.save_pretrained(folder)
    config: Any = read_json(folder / CONFIG)
    write_json(folder / CONFIG, {key: value for key, value in config.items() if key not in ATTENTION_KEYS})
    return True


def _layer(opened: PreTrainedModel, missing: set[str], output: nn.Linear) -> nn.Linear | None:
    """Return the layer after the body, where it is the only one, is new, and has the shape of the head; else None."""
    body = {id(parameter) for parameter in opened.base_model.parameters()}
    after = {name for name, parameter in opened.named_parameters() if id(parameter) not in body}
    owners = {name.rpartition(".")[0] for name in after}
    if len(owners) != 1 or not missing <= after:
        return None
    layer = opened.get_submodule(owners.pop())
    if not isinstance(layer, nn.Linear) or layer.weight.shape != output.weight.shape or layer.bias is None:
        return None
    return layer
