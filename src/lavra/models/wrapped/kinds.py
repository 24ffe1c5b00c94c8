"""Which of the three kinds a Hugging Face folder holds, told from its configuration alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from lavra.core.errors import InputError

Kind = Literal["decoder", "encoder", "encoder-decoder"]

_ENDINGS: dict[str, Kind] = {
    "ForCausalLM": "decoder",
    "LMHeadModel": "decoder",
    "ForMaskedLM": "encoder",
    "ForPreTraining": "encoder",
    "ForConditionalGeneration": "encoder-decoder",
}


def automatic_class(kind: Kind) -> Any:
    """Return the class of `transformers` that opens models of a kind."""
    import transformers

    return {
        "decoder": transformers.AutoModelForCausalLM,
        "encoder": transformers.AutoModelForMaskedLM,
        "encoder-decoder": transformers.AutoModelForSeq2SeqLM,
    }[kind]


def kinds_of_family(model_type: str) -> list[Kind]:
    """Return the kinds that `transformers` has for a family (`bert` is an encoder, and a decoder where it is asked)."""
    from transformers.models.auto import modeling_auto as auto

    names: dict[Kind, Any] = {
        "encoder-decoder": auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        "encoder": auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        "decoder": auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    }
    return [kind for kind, families in names.items() if model_type in families]


def choose_kind(config: dict[str, Any], folder: Path) -> Kind:
    """Return the kind of model in a folder: by the class that wrote it, else by its family.

    Args:
        config: its `config.json`.
        folder: for messages.

    Raises:
        InputError: if `transformers` has no language model for its family.
    """
    family = str(config.get("model_type", ""))
    known = kinds_of_family(family)
    for architecture in config.get("architectures") or ():
        for ending, kind in _ENDINGS.items():
            if str(architecture).endswith(ending) and kind in known:
                return kind
    if not known:
        raise InputError(
            f"transformers has no language model for the family {family or '(none)'!r} of {folder}",
            "give a decoder (GPT-2, Llama, …), an encoder (BERT, …) or an encoder-decoder (T5, BART, …) without code "
            "of its own",
        )
    return known[0]
