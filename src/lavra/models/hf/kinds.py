"""Models of `transformers`: their three kinds, the parts that predict tokens, and keeping the library quiet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from lavra.core.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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


# Which parts of a `transformers` model play which role in predicting tokens.

_POOLER = "pooler"
"""The name that encoders of `transformers` give to the layer that sums up a text for a classifier."""


def target_embedding(inner: PreTrainedModel) -> Any:
    """Return the embedding of the tokens that a model predicts: the decoder's, where it has an encoder besides."""
    side: Any = inner.get_decoder() if getattr(inner.config, "is_encoder_decoder", False) else inner
    return side.get_input_embeddings()


def meant_tied(inner: PreTrainedModel) -> bool:
    """Say whether the head is meant to be the embedding: it is, or the configuration says so and they do not differ.

    The configuration of an encoder-decoder that was put together of two models is that of its decoder.
    """
    head: Any = inner.get_output_embeddings()
    embedding = target_embedding(inner)
    config: Any = inner.config
    said = any(getattr(part, "tie_word_embeddings", False) for part in (config, getattr(config, "decoder", None)))
    same = head.weight.shape == embedding.weight.shape and torch.equal(head.weight, embedding.weight)
    return head.weight is embedding.weight or (said and same)


def freeze_unused(inner: PreTrainedModel) -> frozenset[str]:
    """Freeze the poolers of a model, from which nothing goes on to its head, and return their parameters' names.

    They stay where they are, since `transformers` looks for them in the files of a model that has them.
    """
    poolers = [(name, module) for name, module in inner.named_modules() if name.rpartition(".")[2] == _POOLER]
    for _, module in poolers:
        module.requires_grad_(False)
    return frozenset(f"{name}.{own}" for name, module in poolers for own, _ in module.named_parameters())


# Keeping `transformers` from writing on the terminal.


@contextmanager
def quietly() -> Iterator[None]:
    """Let `transformers` show neither bars nor warnings during the block; errors are still raised.

    Nor does `torchao`, which `transformers` imports where it is installed, and which tells of others' kernels.
    """
    import logging as standard

    standard.getLogger("torchao").setLevel(standard.ERROR)
    standard.getLogger("torch.utils._pytree").setLevel(standard.ERROR)
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
