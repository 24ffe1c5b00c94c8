"""The folders of sentence-transformers: modules, pooling, prompts and normalisation, read and written without it.

Such a folder names its modules in `modules.json`: a model of `transformers` or a table of static vectors, a pooling,
linear layers, and the division by the length. Nothing in the folder is run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from lavra.core.disk.files import read_json, write_json
from lavra.core.errors import CorruptFile, InputError
from lavra.models.heads import EmbeddingHead
from lavra.models.pooling import Pooling
from lavra.models.protocols import Batch
from lavra.vectors.protocols import TextKind
from lavra.vectors.reading import Prompts

MODULES = "modules.json"
"""Name of the file that names the modules."""
ABOUT = "config_sentence_transformers.json"
"""Name of the file with the prompts and the similarity."""
_TRANSFORMER = "sentence_bert_config.json"
"""Name of the file with the longest text, in the folder of the model of `transformers`."""

POOLINGS: dict[str, Pooling] = {"cls": "first", "mean": "mean", "max": "max", "lasttoken": "last"}
"""The poolings of ours by what sentence-transformers calls them."""

_OLDER = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
"""Switches by which older versions choose a pooling."""

_PROMPTS: dict[TextKind, tuple[str, ...]] = {"query": ("query",), "passage": ("document", "passage", "corpus")}
"""Names of the prompts of each kind, in the order in which sentence-transformers looks for them."""

_ACTIVATIONS = {
    "torch.nn.modules.linear.Identity": nn.Identity,
    "torch.nn.modules.activation.Tanh": nn.Tanh,
    "torch.nn.modules.activation.ReLU": nn.ReLU,
    "torch.nn.modules.activation.GELU": nn.GELU,
    "torch.nn.modules.activation.SiLU": nn.SiLU,
    "torch.nn.modules.activation.Sigmoid": nn.Sigmoid,
}
_OURS = "use the model with sentence-transformers, or ask for the module"


@dataclass(frozen=True)
class SentenceFolder:
    """What a folder of sentence-transformers says of the way from a text to its vector.

    Attributes:
        folder: The folder.
        model: The folder of the model of `transformers`; None for static vectors.
        static: The folder of the static vectors; None for a model.
        pooling: How the features of a text become one vector.
        pool_prompt: Whether the tokens of the prompt are pooled, too.
        layers: Folders of the linear layers after the pooling, in their order.
        normalise: Whether the vectors have length 1: because the folder says so, or because they are compared by the
            cosine.
        prompts: What is put before the texts of each kind.
        longest: Most tokens of a text; None where the folder names no number.
        lowercase: Whether texts are lower-cased before they are tokenised.
        dimensions: Number of the first numbers of a vector that are kept; None keeps all.
    """

    folder: Path
    model: Path | None = None
    static: Path | None = None
    pooling: Pooling = "mean"
    pool_prompt: bool = True
    layers: tuple[Path, ...] = ()
    normalise: bool = True
    prompts: Prompts = field(default_factory=dict)
    longest: int | None = None
    lowercase: bool = False
    dimensions: int | None = None


def is_sentence_folder(folder: Path) -> bool:
    """Return whether a folder names the modules of sentence-transformers.

    Args:
        folder: The folder.
    """
    return (folder / MODULES).is_file()


def read_sentence_folder(folder: Path) -> SentenceFolder:
    """Read a folder of sentence-transformers.

    Args:
        folder: The folder.

    Raises:
        InputError: If it has a module, or a setting of one, that lavra does not compute.
        CorruptFile: If a file is damaged.
    """
    about: dict[str, Any] = read_json(folder / ABOUT) if (folder / ABOUT).is_file() else {}
    if about.get("model_type", "SentenceTransformer") != "SentenceTransformer":
        raise InputError(
            f"{folder} holds a {about['model_type']} of sentence-transformers, which makes no vector of a text",
            "give an encoder of texts",
        )
    found: dict[str, Any] = {"folder": folder, "normalise": (about.get("similarity_fn_name") or "cosine") == "cosine"}
    found |= {"prompts": _prompts(about), "dimensions": about.get("truncate_dim"), "layers": ()}
    for kind, place in _modules(folder):
        if kind == "Transformer":
            found |= {"model": place, **_transformer(place)}
        elif kind == "StaticEmbedding":
            found["static"] = place
        elif kind == "Pooling":
            found |= _pooling(place)
        elif kind == "Dense":
            found["layers"] = (*found["layers"], place)
        elif kind == "Normalize":
            found["normalise"] = True
        elif kind != "Dropout":
            raise InputError(f"{folder} has a module {kind}, which lavra does not compute", _OURS)
    if ("model" in found) == ("static" in found):
        raise InputError(f"{folder / MODULES} names no model, or more than one", "give an encoder of texts")
    return SentenceFolder(**found)


def _modules(folder: Path) -> list[tuple[str, Path]]:
    """Return the kind and the folder of each module."""
    records = read_json(folder / MODULES)
    try:
        named = [(str(one["type"]).rpartition(".")[2], str(one["path"])) for one in records]
    except (TypeError, KeyError) as error:
        raise CorruptFile(f"{folder / MODULES} names no modules", "copy the model again") from error
    found = []
    for kind, path in named:
        place = folder / path if path else folder
        if not place.resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{folder / MODULES} names a place outside its folder: {path}", "check where it is from")
        found.append((kind, place))
    return found


def _prompts(about: Mapping[str, Any]) -> dict[TextKind, str]:
    """Return the prompt of each kind, by the rules of `encode`, `encode_query` and `encode_document`."""
    named = {name: text for name, text in (about.get("prompts") or {}).items() if isinstance(text, str)}
    usual = named.get(about.get("default_prompt_name") or "", "")
    found: dict[TextKind, str] = {"text": usual}
    for kind, names in _PROMPTS.items():
        found[kind] = next((named[name] for name in names if name in named), usual)
    return {kind: text for kind, text in found.items() if text}


def _transformer(place: Path) -> dict[str, Any]:
    """Return the longest text and whether texts are lower-cased."""
    settings: dict[str, Any] = {}
    for path in sorted(place.glob("sentence_*_config.json")):
        settings |= read_json(path)
    if settings.get("transformer_task", "feature-extraction") != "feature-extraction":
        raise InputError(f"{place} is used for {settings['transformer_task']}, not for vectors", _OURS)
    path = place / "tokenizer_config.json"
    tokenizer: dict[str, Any] = read_json(path) if path.is_file() else {}
    longest = settings.get("max_seq_length") or tokenizer.get("model_max_length")
    return {
        "longest": int(longest) if longest and longest < _WITHOUT_LIMIT else None,
        "lowercase": bool(settings.get("do_lower_case")),
    }


_WITHOUT_LIMIT = 10**9
"""Length from which on a setting means that there is no limit."""


def _pooling(place: Path) -> dict[str, Any]:
    """Return the pooling."""
    settings = read_json(place / "config.json")
    asked = settings.get("pooling_mode") or [name for switch, name in _OLDER.items() if settings.get(switch)] or "mean"
    names = [asked] if isinstance(asked, str) else list(asked)
    if len(names) != 1 or names[0] not in POOLINGS:
        raise InputError(
            f"{place} pools by {' and '.join(map(str, names))}; lavra pools by one of {', '.join(POOLINGS)}", _OURS
        )
    return {"pooling": POOLINGS[names[0]], "pool_prompt": settings.get("include_prompt", True)}


class SentenceHead(nn.Module):
    """The modules after a model: pooling and linear layers.

    Args:
        pooling: How the features of a text become one vector.
        width: Size of the features.
        layers: Linear layers with their activations.
    """

    def __init__(self, pooling: Pooling, width: int, layers: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        self.pooler = EmbeddingHead(width, pooling, normalise=False)
        self.layers = nn.Sequential(*layers)

    def forward(self, features: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the vector of each text, (texts, dimensions) in float32."""
        return self.layers(self.pooler(features, batch))


class DenseLayer(nn.Module):
    """A linear layer, and a function of each number.

    Args:
        weight: Weight, (outputs, inputs).
        bias: Bias, (outputs,), or None.
        activation: The function.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, activation: nn.Module) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.float())
        self.bias = None if bias is None else nn.Parameter(bias.float())
        self.activation = activation

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the outputs, (texts, outputs)."""
        return self.activation(F.linear(vectors, self.weight, self.bias))


def sentence_head(described: SentenceFolder, width: int) -> tuple[SentenceHead, int]:
    """Return what makes the vectors of a folder, and the size of the vectors.

    Args:
        described: The folder.
        width: Size of the features of its model.

    Raises:
        InputError: If a linear layer has a setting that lavra does not compute.
    """
    layers = [_dense(place) for place in described.layers]
    size = layers[-1].weight.shape[0] if layers else width
    return SentenceHead(described.pooling, width, layers), size


def _dense(place: Path) -> DenseLayer:
    from safetensors.torch import load_file

    settings, weights = read_json(place / "config.json"), place / "model.safetensors"
    name = settings.get("activation_function", "torch.nn.modules.activation.Tanh")
    usual = ("sentence_embedding", None)
    odd = [key for key in ("module_input_name", "module_output_name") if settings.get(key, usual[0]) not in usual]
    if name not in _ACTIVATIONS or settings.get("use_residual") or odd:
        what = name if name not in _ACTIVATIONS else "other inputs than the vector"
        raise InputError(f"{place} is a linear layer with {what}, which lavra does not compute", _OURS)
    if not weights.is_file():
        raise InputError(f"{place} has no {weights.name}", "convert its weights; pickles are not opened")
    tensors = load_file(weights)
    return DenseLayer(tensors["linear.weight"], tensors.get("linear.bias"), _ACTIVATIONS[name]())


# Writing.

_TYPES = "sentence_transformers.models."
"""Where sentence-transformers looks for the classes of modules, in all of its versions."""


def write_modules(folder: Path, kinds: Sequence[tuple[str, str]]) -> None:
    """Write `modules.json`, and a folder for each module that is to have one.

    Args:
        folder: The folder of the model.
        kinds: Kind and folder of each module; an empty folder is that of the model itself.
    """
    modules = []
    for number, (kind, path) in enumerate(kinds):
        if path:
            (folder / path).mkdir(parents=True, exist_ok=True)
        modules.append({"idx": number, "name": str(number), "path": path, "type": f"{_TYPES}{kind}"})
    write_json(folder / MODULES, modules)


def write_pooling(place: Path, pooling: Pooling, width: int, *, prompt: bool = True) -> None:
    """Write the settings of a pooling.

    Args:
        place: The folder of the module.
        pooling: How the features of a text become one vector.
        width: Size of the features.
        prompt: Whether the tokens of the prompt are pooled, too.

    Raises:
        InputError: If sentence-transformers has no such pooling.
    """
    names = {ours: theirs for theirs, ours in POOLINGS.items()}
    if pooling not in names:
        raise InputError(
            f"sentence-transformers has no {pooling} pooling", f"train with one of {', '.join(names)}, or keep to lavra"
        )
    switches = {switch: name == names[pooling] for switch, name in _OLDER.items()}
    write_json(place / "config.json", {"word_embedding_dimension": width, **switches, "include_prompt": prompt})


def write_dense(place: Path, weight: torch.Tensor, bias: torch.Tensor | None, activation: nn.Module) -> None:
    """Write a linear layer.

    Args:
        place: The folder of the module.
        weight: Weight, (outputs, inputs).
        bias: Bias, (outputs,), or None.
        activation: The function after it, one of those that are read.
    """
    from safetensors.torch import save_file

    tensors = {"linear.weight": weight} | ({} if bias is None else {"linear.bias": bias})
    save_file({name: one.detach().cpu().contiguous() for name, one in tensors.items()}, place / "model.safetensors")
    settings = {"in_features": weight.shape[1], "out_features": weight.shape[0], "bias": bias is not None}
    name = next(name for name, known in _ACTIVATIONS.items() if type(activation) is known)
    write_json(place / "config.json", {**settings, "activation_function": name})


def write_about(folder: Path, prompts: Prompts, *, normalise: bool) -> None:
    """Write the prompts and the similarity.

    Args:
        folder: The folder of the model.
        prompts: What is put before the texts of each kind.
        normalise: Whether vectors are compared by the cosine; else by their inner product.
    """
    names = cast("dict[TextKind, str]", {"query": "query", "passage": "document", "text": "text"})
    given = {name: prompts.get(kind, "") for kind, name in names.items()} if any(prompts.values()) else {}
    write_json(
        folder / ABOUT,
        {
            "model_type": "SentenceTransformer",
            "prompts": given,
            "default_prompt_name": "text" if given.get("text") else None,
            "similarity_fn_name": "cosine" if normalise else "dot",
        },
    )


def write_longest(folder: Path, longest: int) -> None:
    """Write the longest text.

    Args:
        folder: The folder of the model of `transformers`.
        longest: Most tokens of a text, with those around it.
    """
    write_json(folder / _TRANSFORMER, {"max_seq_length": longest, "do_lower_case": False})
