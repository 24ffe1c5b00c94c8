"""Reading and writing models of `transformers` as Hugging Face folders, without ever running code from them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lavra.core.disk.building import building_folder
from lavra.core.disk.files import read_json, write_json
from lavra.core.errors import CorruptFile, InputError
from lavra.core.progress import log
from lavra.models.families.companions import copy_tokenizer
from lavra.models.families.importing import CONFIG, read_config
from lavra.models.hf.kinds import Kind, automatic_class, body_parameters, choose_kind, quietly, why_not_trained
from lavra.models.hf.model import HFModel
from lavra.models.reference import ATTENTION_KEYS, attention_options

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def open_hf_model(
    folder: Path,
    kind: Kind | None = None,
    dtype: torch.dtype = torch.float32,
    *,
    for_task_head: bool = False,
    new_head: bool = False,
) -> HFModel:
    """Return the model in a Hugging Face folder, in evaluation mode.

    Safetensors are read where there are any. A `.bin` file is read only as tensors, so that no code in it is run.

    Args:
        folder: Folder that `save_pretrained` made, or that was downloaded.
        kind: Kind of language model to open; None chooses by the configuration.
        dtype: Type of the weights in memory.
        for_task_head: Whether a task's head is to be attached, so that the language-model head is not needed: where the
            folder lacks it (sentence encoders do), it is made of random numbers that nothing uses.
        new_head: Whether an encoder without a language-model head gets a new one, to be trained; it is said.

    Raises:
        InputError: If the folder holds no language model, lacks some of its weights, or is quantised.
        CorruptFile: If the files are truncated or do not fit the configuration.
    """
    config = read_config(folder)
    chosen = choose_kind(config, folder) if kind is None else kind
    if (reason := why_not_trained(config)) is not None:
        raise InputError(f"the model in {folder} cannot be used: {reason}", "choose a model of another family")
    special = dict(_SPECIAL.get(str(config.get("model_type")), {}) if chosen == "encoder" else {})
    special |= attention_options(str(folder))
    return HFModel(_load(folder, chosen, dtype, special, for_task_head, new_head), chosen)


_MICROSOFT = {
    r"^lm_predictions\.lm_head\.(dense|LayerNorm)": r"cls.predictions.transform.\1",
    r"^lm_predictions\.lm_head\.bias": "cls.predictions.bias",
}
"""Names of DeBERTa's head in Microsoft's files, and those in `transformers`, which would otherwise drop the head."""

_DEBERTA = {"legacy": True, "key_mapping": _MICROSOFT}
_SPECIAL: dict[str, dict[str, Any]] = {"deberta": _DEBERTA, "deberta-v2": _DEBERTA}
"""Further options with which encoders of a family are opened, by `model_type`."""


def _load(
    folder: Path, kind: Kind, dtype: torch.dtype, special: dict[str, Any], for_task_head: bool, new_head: bool
) -> PreTrainedModel:
    from safetensors import SafetensorError

    again = "copy or download the model again"
    try:
        with quietly(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # what the folder lacks is drawn by the global generator
            model, report = automatic_class(kind).from_pretrained(
                str(folder),
                dtype=dtype,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                **special,
            )
    except (SafetensorError, EOFError) as error:
        raise CorruptFile(f"the weights in {folder} cannot be read: {error}", again) from error
    except pickle.UnpicklingError as error:
        raise InputError(
            f"the weights in {folder} are a pickle that holds more than tensors, and could run code",
            "take the model's safetensors, or convert it where you trust it",
        ) from error
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"transformers cannot open {folder} as {_words(kind)}: {_first_line(error)}", again) from error
    except RuntimeError as error:
        raise CorruptFile(f"the weights in {folder} do not fit its {CONFIG}: {_first_line(error)}", again) from error
    missing = sorted(report["missing_keys"])
    if for_task_head or (new_head and kind == "encoder"):
        used = {id(parameter) for parameter in body_parameters(model)}
        named = model.named_parameters(remove_duplicate=False)
        unused = {name for name, parameter in named if id(parameter) not in used}
        of_body = [name for name in missing if name not in unused]
        if new_head and not of_body and missing and begin_head(model, missing):
            log(f"{folder} has no language-model head: it gets a new one, which shares the weight of the embedding")
            missing = []
        missing = of_body if for_task_head else missing
    if missing:
        raise InputError(
            f"{folder} has no weights for {len(missing)} tensors of {_words(kind)}: {', '.join(missing[:4])}"
            f"{', …' if len(missing) > 4 else ''}",
            "a model saved for another task, or without its head, cannot predict tokens; take one with its "
            "language-model head",
        )
    return model.eval()


@torch.no_grad()
def begin_head(model: Any, missing: list[str]) -> bool:
    """Let a new head predict the tokens whose embeddings are nearest, and return whether it is tied to the embedding.

    The square matrices before the last one begin as the identity, so that the head begins with what the body knows.

    Args:
        model: Model of `transformers` with the head.
        missing: Names of the parameters of the head that are new.
    """
    if model.get_output_embeddings().weight is not model.get_input_embeddings().weight:
        return False
    for name, parameter in model.named_parameters():
        if name in missing and parameter.dim() == 2 and parameter.shape[0] == parameter.shape[1]:
            parameter.copy_(torch.eye(len(parameter)))
    return True


def save_hf_model(
    folder: Path,
    model: HFModel,
    tokenizer_files_from: Path | None = None,
    *,
    weights: Mapping[str, torch.Tensor] | None = None,
    force: bool = False,
) -> None:
    """Write a Hugging Face folder that `transformers` opens to the same logits; it is written whole or not at all.

    Args:
        folder: Folder to make.
        model: Model to write, in its own precision.
        tokenizer_files_from: Folder whose tokenizer is copied too; None copies none.
        weights: Weights to write in place of those of the model, by the names of its `named_parameters`, such as the
            fp32 master weights of a model that computes in bf16. Others are written as the model has them.
        force: Whether to replace a folder that exists.

    Raises:
        InputError: If the folder exists and `force` is false, or a weight is unknown or has another shape.
    """
    with building_folder(folder, force=force, kind="model") as building:
        write_hf_model(building, model, tokenizer_files_from, weights=weights)


def write_hf_model(
    folder: Path,
    model: HFModel,
    tokenizer_files_from: Path | None = None,
    *,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write the files of `save_hf_model` into an existing folder; the caller takes care of atomicity.

    Args:
        folder: Folder to write into.
        model: Model to write, in its own precision.
        tokenizer_files_from: Folder whose tokenizer is copied too; None copies none.
        weights: Weights to write in place of those of the model, by the names of its `named_parameters`.

    Raises:
        InputError: If a weight is unknown or has another shape.
    """
    weights = weights or {}
    with quietly():
        model.inner.save_pretrained(folder, state_dict=_state(model, weights))
    config: Any = read_json(folder / CONFIG)
    kept = {key: value for key, value in config.items() if key not in ATTENTION_KEYS}
    write_json(folder / CONFIG, {**kept, **_corrections(model, weights)})
    if tokenizer_files_from is not None:
        copy_tokenizer(tokenizer_files_from, folder)


def _state(model: HFModel, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of the model by its own names, with those of `weights` under every name of a parameter."""
    parameters = dict(model.named_parameters())
    odd = sorted(name for name in weights if name not in parameters or weights[name].shape != parameters[name].shape)
    if odd:
        raise InputError(
            f"{len(odd)} weights are none of the model's: {', '.join(odd[:4])}", "fold adapters into it before saving"
        )
    # A tied tensor has several names in the state; all of them get the same new tensor, so that it stays tied.
    given = {parameters[name].data_ptr(): weight.detach() for name, weight in weights.items()}
    state: dict[str, torch.Tensor] = model.inner.state_dict()
    return {name: given.get(tensor.data_ptr(), tensor) for name, tensor in state.items()}


def _corrections(model: HFModel, weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Return corrections of the configuration that `transformers` writes."""
    changes: dict[str, Any] = {}
    types = {weights.get(name, parameter).dtype for name, parameter in model.named_parameters()}
    if len(types) == 1:  # the library records the type of the model and not that of the written weights
        changes["dtype"] = str(types.pop()).removeprefix("torch.")
    if not model.tied and model.inner.config.model_type in ("t5", "mt5", "umt5"):
        # T5 1.1 and mT5: version 5 finds two matrices in the file whatever is noted; version 4 would tie the head.
        changes["tie_word_embeddings"] = False
    return changes


def _words(kind: Kind) -> str:
    return {"decoder": "a decoder", "encoder": "a masked-language encoder", "encoder-decoder": "an encoder-decoder"}[
        kind
    ]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
