"""The table of all families, and the choice of one to read a configuration or to write a specification."""

from __future__ import annotations

from lavra.core.errors import InputError
from lavra.models.families.albert import ALBERT
from lavra.models.families.bert import BERT
from lavra.models.families.bloom import BLOOM
from lavra.models.families.family import Family, missing, shapes
from lavra.models.families.gemma2 import GEMMA2
from lavra.models.families.gpt2 import GPT2
from lavra.models.families.gpt_neox import GPT_NEOX
from lavra.models.families.llama import LLAMA, MISTRAL, QWEN2, QWEN3
from lavra.models.families.mixtral import MIXTRAL, OLMOE, QWEN2_MOE, QWEN3_MOE
from lavra.models.families.modernbert import MODERNBERT
from lavra.models.families.nanochat import NANOCHAT
from lavra.models.families.opt import OPT
from lavra.models.families.roberta import CAMEMBERT, ROBERTA, XLM_ROBERTA
from lavra.models.families.roformer import ROFORMER
from lavra.models.families.rules import Config
from lavra.models.families.t5 import T5
from lavra.models.spec import DecoderSpec

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        LLAMA,
        GPT2,
        OPT,
        GPT_NEOX,
        QWEN2,
        QWEN3,
        MISTRAL,
        BLOOM,
        NANOCHAT,
        GEMMA2,
        MIXTRAL,
        QWEN3_MOE,
        QWEN2_MOE,
        OLMOE,
        MODERNBERT,
        BERT,
        ROBERTA,
        XLM_ROBERTA,
        CAMEMBERT,
        ALBERT,
        ROFORMER,
        T5,
    )
}
"""Family of each `model_type`. Of several that can express a model equally well, the first one is written."""


def family_of(config: Config, place: str) -> Family:
    """Return the family of the model that a configuration describes.

    Args:
        config: Content of `config.json`.
        place: Folder of the model, for the error message.

    Raises:
        InputError: If there is no table for the family.

    Examples:
        >>> family_of({"model_type": "gpt2"}, "model").architecture
        'GPT2LMHeadModel'
    """
    kind = config.get("model_type")
    if isinstance(kind, str) and kind in FAMILIES:
        return FAMILIES[kind]
    known = ", ".join(FAMILIES)
    reason = (
        "it needs code of its own, which is never run" if "auto_map" in config else f"lavra's decoder reads {known}"
    )
    raise InputError(f"{place} is a model of type {kind!r}: {reason}", f"choose a model of one of these: {known}")


def family_for(spec: DecoderSpec, preferred: str | None = None) -> tuple[Family, DecoderSpec]:
    """Return the family that expresses a specification exactly with the fewest parameters, and its specification.

    Args:
        spec: Specification of the model to write.
        preferred: `model_type` of a family that is taken if it can express the model; None prefers none.

    Raises:
        InputError: If no family does; the message names the options that the nearest families lack.
    """
    exact: list[tuple[tuple[bool, int, bool], Family, DecoderSpec]] = []
    lacking: list[tuple[int, str]] = []
    for family in FAMILIES.values():
        target, differences = missing(family, spec)
        if target is None:
            lacking.append((len(differences), f"{family.title} has no {', '.join(differences)}"))
        else:
            size = sum(shape.numel() for shape in shapes(target).values())
            exact.append(((family.name != preferred, size, not family.is_usual(spec)), family, target))
    if exact:
        _, family, target = min(exact, key=lambda entry: entry[0])
        return family, target
    told: dict[str, str] = {}  # families that lack the same are told of once
    for _, text in sorted(lacking, key=lambda pair: pair[0]):
        told.setdefault(text.partition(" has no ")[2], text)
    nearest = "; ".join([*told.values()][:3])
    raise InputError(
        f"no family of transformers expresses this model exactly: {nearest}",
        "train with another value of one of these options, or keep the model in lavra's own format",
    )
