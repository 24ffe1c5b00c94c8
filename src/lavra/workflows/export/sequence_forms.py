"""How the classes of `transformers` for labels of texts hold the head of lavra, which is pooling and a linear layer.

Encoders of `transformers` put a layer of the width of the model with an activation before the linear layer. It is made
the identity: of a tanh by a small factor, which the linear layer takes back, since tanh(x) is x for small x; of a ReLU
or a GELU by a large offset, above which they are the identity. ModernBERT has a layer norm behind it: the features come
from one themselves, so that the layer undoes its weights, and the norm makes them again. Decoders take the last token
that is not padding, and their linear layer has no bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from lavra.core.errors import InputError
from lavra.models.heads import SequenceHead

_FACTOR = 2.0**-13
"""Factor before a tanh: features of 50 lose 1.2e-5 of themselves, and those of 5 a hundredth of that."""

_OFFSET = 64.0
"""Offset before a ReLU or a GELU, above all features, at which float32 still tells 4e-6 apart."""

_STRONG = 64.0
"""Factor before a layer norm, next to which the small number in its denominator is nothing."""
_LEAST_SCALE = 1e-4
"""Smallest weight of a layer norm that can be undone, as a share of its largest one."""

_PASSES = {"tanh": (_FACTOR, 0.0), "relu": (1.0, _OFFSET), "gelu": (1.0, _OFFSET), "linear": (1.0, 0.0)}
"""Factor and offset with which an activation passes what it is given."""


@dataclass(frozen=True)
class Form:
    """The head of a class of `transformers` for the first token of a text.

    Attributes:
        dense: Name of the layer before the last one.
        activation: Activation behind it.
        output: Name of the last layer.
        settings: Keys of the configuration that make it so.
        norm: Name of the layer norm between the two; empty for none.
        last_norm: Name of the layer norm from which the features come, where there is a `norm`.
    """

    dense: str
    activation: str
    output: str
    settings: Mapping[str, Any]
    norm: str = ""
    last_norm: str = ""


_ROBERTA = Form("classifier.dense", "tanh", "classifier.out_proj", {})
_MODERNBERT = Form(
    "head.dense",
    "linear",
    "classifier",
    {"classifier_pooling": "cls", "classifier_activation": "linear", "classifier_bias": True},
    norm="head.norm",
    last_norm="model.final_norm",
)
_DEBERTA = Form("pooler.dense", "linear", "classifier", {"pooler_hidden_act": "linear"})

FORMS = {
    "bert": Form("bert.pooler.dense", "tanh", "classifier", {}),
    "albert": Form("albert.pooler", "tanh", "classifier", {}),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "mpnet": _ROBERTA,
    "electra": Form("classifier.dense", "gelu", "classifier.out_proj", {}),
    "roformer": Form("classifier.dense", "gelu", "classifier.out_proj", {}),
    "distilbert": Form("pre_classifier", "relu", "classifier", {}),
    "deberta": _DEBERTA,
    "deberta-v2": _DEBERTA,
    "modernbert": _MODERNBERT,
}
"""The forms of encoders by `model_type`."""

SCORE = "score"
"""Name of the linear layer of decoders."""


def demand_form(family: str, kind: str, head: SequenceHead, outputs: str) -> Form | None:
    """Return the form in which a family holds a head; None for the linear layer of a decoder.

    Args:
        family: The `model_type`.
        kind: The kind of the model.
        head: The head.
        outputs: What its outputs are: "classes", "labels" or "values".

    Raises:
        InputError: If the family cannot hold it; the message says why, and what to train instead.
    """
    pooling = head.options["pooling"]
    if kind == "decoder":
        if pooling != "last":
            raise _other_pooling(family, pooling, "last")
        layer = cast(nn.Linear, head.output)
        if outputs == "values":
            raise InputError(
                f"the class of {family} for labels has no bias that could hold the mean of predicted numbers",
                "train an encoder for numbers, or use this model with lavra",
            )
        if layer.bias is not None and bool(layer.bias.detach().abs().max() > 0):
            raise InputError(
                f"the head of this model has a bias, and the class of {family} for labels has none",
                "train it again: heads on the last token of a decoder have no bias now",
            )
        return None
    if family not in FORMS:
        raise InputError(
            f"no class of transformers for labels is known to hold this head on a {family} exactly",
            f"use the model with lavra, or train one of {', '.join(FORMS)}",
        )
    if pooling != "first":
        raise _other_pooling(family, pooling, "first")
    return FORMS[family]


def _other_pooling(family: str, pooling: str, needed: str) -> InputError:
    return InputError(
        f"this head takes the {pooling} of the tokens of a text, and the class of {family} for labels the {needed} one",
        f"train it with --head.pooling {needed} to export it; lavra itself uses it as it is",
    )


@torch.no_grad()
def fill(opened: nn.Module, form: Form | None, head: SequenceHead, facts: Mapping[str, Any], outputs: str) -> None:
    """Write the weights of a head into a model of `transformers`.

    Args:
        opened: The model, of the class for labels of texts.
        form: Its form; None for a decoder.
        head: The head.
        facts: What the task knows of the data: the mean and deviation of predicted numbers become weights.
        outputs: What its outputs are: "classes", "labels" or "values".

    Raises:
        InputError: If the weights of a norm cannot be undone.
    """
    layer = cast(nn.Linear, head.output)
    weight = layer.weight.detach().float()
    bias = torch.zeros(len(weight)) if layer.bias is None else layer.bias.detach().float()
    if outputs == "values":
        weight, bias = weight * facts["deviation"], bias * facts["deviation"] + facts["mean"]
    if form is None:
        cast(nn.Linear, opened.get_submodule(SCORE)).weight.copy_(weight)
        return
    factor, offset = _PASSES[form.activation]
    dense, output = (cast(nn.Linear, opened.get_submodule(name)) for name in (form.dense, form.output))
    if form.norm:
        _undo_norm(opened, form, dense)
        output.weight.copy_(weight)
        output.bias.copy_(bias)
        return
    dense.weight.copy_(factor * torch.eye(len(dense.weight)))
    dense.bias.fill_(offset)
    output.weight.copy_(weight / factor)
    output.bias.copy_(bias - offset * weight.sum(dim=1))


def _undo_norm(opened: nn.Module, form: Form, dense: nn.Linear) -> None:
    """Let a layer undo the weights of the norm from which the features come, and the norm behind it make them again."""
    last, norm = (cast(nn.LayerNorm, opened.get_submodule(name)) for name in (form.last_norm, form.norm))
    scale = last.weight.detach().float()
    shift = torch.zeros_like(scale) if last.bias is None else last.bias.detach().float()
    if float(scale.abs().min()) < _LEAST_SCALE * float(scale.abs().max()):
        raise InputError(
            "the last norm of this model drops features, so that the class for labels cannot hold this head",
            "use the model with lavra",
        )
    dense.weight.copy_(torch.diag(_STRONG / scale))
    dense.bias.copy_(-_STRONG * shift / scale)
    norm.weight.copy_(scale)
    if norm.bias is not None:
        norm.bias.copy_(shift)


def owners(form: Form | None) -> set[str]:
    """Return the names of the layers that `fill` fills.

    Args:
        form: The form; None for a decoder.
    """
    return {SCORE} if form is None else {name for name in (form.dense, form.output, form.norm) if name}
