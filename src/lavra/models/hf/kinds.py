"""The three kinds of language models of `transformers`, their parts, and a way to silence the library."""

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
"""Kinds of language models."""

_ENDINGS: dict[str, Kind] = {
    "ForCausalLM": "decoder",
    "LMHeadModel": "decoder",
    "ForMaskedLM": "encoder",
    "ForPreTraining": "encoder",
    "ForConditionalGeneration": "encoder-decoder",
}
"""Kind of a model by the end of its class's name."""


def automatic_class(kind: Kind) -> Any:
    """Return the class of `transformers` that opens models of a kind.

    Args:
        kind: Kind of model.

    Examples:
        >>> automatic_class("encoder").__name__
        'AutoModelForMaskedLM'
    """
    import transformers

    return {
        "decoder": transformers.AutoModelForCausalLM,
        "encoder": transformers.AutoModelForMaskedLM,
        "encoder-decoder": transformers.AutoModelForSeq2SeqLM,
    }[kind]


def kinds_of_family(model_type: str) -> list[Kind]:
    """Return the kinds of models that `transformers` has for a family.

    Args:
        model_type: Name of the family, as in `config.json`.

    Examples:
        >>> kinds_of_family("gpt2")
        ['decoder']
    """
    from transformers.models.auto import modeling_auto as auto

    names: dict[Kind, Any] = {
        "encoder-decoder": auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        "encoder": auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        "decoder": auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    }
    return [kind for kind, families in names.items() if model_type in families]


def choose_kind(config: dict[str, Any], folder: Path) -> Kind:
    """Return the kind of the model in a folder, by the class that wrote it or else by its family.

    Args:
        config: Content of its `config.json`.
        folder: Folder of the model, for the error message.

    Raises:
        InputError: If `transformers` has no language model for the family.

    Examples:
        >>> choose_kind({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, Path("model"))
        'encoder'
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


def why_not_trained(config: dict[str, Any]) -> str | None:
    """Return why models of a family cannot be trained on rows of any length, as a clause; None where they can.

    Args:
        config: Content of `config.json`.

    Examples:
        >>> why_not_trained({"model_type": "funnel"})
        'Funnel pools its sequence again and again, and cannot read short ones'
    """
    family = config.get("model_type")
    if family == "reformer" and config.get("axial_pos_embds", True):
        return "Reformer learns its axial positions from sequences of one length alone"
    if family == "funnel":
        return "Funnel pools its sequence again and again, and cannot read short ones"
    return None


# Which parts of a `transformers` model play which role in predicting tokens.

_POOLER = "pooler"
"""Name that encoders of `transformers` give to the layer that summarises a text for a classifier."""


def target_embedding(inner: PreTrainedModel) -> Any:
    """Return the embedding of the tokens that a model predicts, which is that of the decoder in an encoder-decoder.

    Args:
        inner: Model of `transformers`.
    """
    side: Any = inner.get_decoder() if getattr(inner.config, "is_encoder_decoder", False) else inner
    return side.get_input_embeddings()


def meant_tied(inner: PreTrainedModel) -> bool:
    """Return whether the head is meant to share the weight of the embedding.

    It is where both are one tensor, or where the configuration says so and their values are equal. For an
    encoder-decoder that was made of two models, the configuration of the decoder counts too.

    Args:
        inner: Model of `transformers`.
    """
    head: Any = inner.get_output_embeddings()
    embedding = target_embedding(inner)
    config: Any = inner.config
    said = any(getattr(part, "tie_word_embeddings", False) for part in (config, getattr(config, "decoder", None)))
    same = head.weight.shape == embedding.weight.shape and torch.equal(head.weight, embedding.weight)
    return head.weight is embedding.weight or (said and same)


def body_of(inner: PreTrainedModel) -> Any:
    """Return the module whose output are the last hidden states, without the language-model head.

    Args:
        inner: Model of `transformers`; of an encoder-decoder it is the body of the decoder.
    """
    side: Any = inner.get_decoder() if getattr(inner.config, "is_encoder_decoder", False) else inner
    return side.base_model


def body_parameters(inner: PreTrainedModel) -> list[torch.nn.Parameter]:
    """Return the parameters on which the last hidden states depend, the encoder's included.

    Args:
        inner: Model of `transformers`.
    """
    encoder: Any = inner.get_encoder() if getattr(inner.config, "is_encoder_decoder", False) else None
    return [*body_of(inner).parameters(), *(() if encoder is None else encoder.parameters())]


def freeze_unused(inner: PreTrainedModel) -> frozenset[str]:
    """Freeze the poolers of a model, which its head does not use, and return the names of their parameters.

    They are not removed, because `transformers` expects them in the files of a model that has them.

    Args:
        inner: Model of `transformers`.
    """
    poolers = [(name, module) for name, module in inner.named_modules() if name.rpartition(".")[2] == _POOLER]
    for _, module in poolers:
        module.requires_grad_(False)
    return frozenset(f"{name}.{own}" for name, module in poolers for own, _ in module.named_parameters())


# Keeping `transformers` from writing on the terminal.


@contextmanager
def quietly() -> Iterator[None]:
    """Silence the progress bars and warnings of `transformers` during the block; errors are still raised.

    `torchao` is silenced too: `transformers` imports it where it is installed, and it warns about missing kernels.
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
