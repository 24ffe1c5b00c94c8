"""All families: found by the configuration of a model to be read, chosen by the specification of one to be written."""

from __future__ import annotations

from lavra.core.errors import InputError
from lavra.models.families.bloom import BLOOM
from lavra.models.families.family import Family, missing, shapes
from lavra.models.families.gpt2 import GPT2
from lavra.models.families.gpt_neox import GPT_NEOX
from lavra.models.families.llama import LLAMA, MISTRAL, QWEN2, QWEN3
from lavra.models.families.nanochat import NANOCHAT
from lavra.models.families.opt import OPT
from lavra.models.families.rules import Config
from lavra.models.spec import DecoderSpec

FAMILIES: dict[str, Family] = {
    family.name: family for family in (LLAMA, GPT2, OPT, GPT_NEOX, QWEN2, QWEN3, MISTRAL, BLOOM, NANOCHAT)
}
"""`model_type` → family; of several that can express a model equally well, the first is written."""


def family_of(config: Config, place: str) -> Family:
    """Return the family of a model with this configuration.

    Raises:
        InputError: if our decoder has no table for it.
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
    """Return the family that expresses the specification exactly, with the fewest parameters, and its specification.

    Args:
        spec: of the model to be written.
        preferred: `model_type` that is tried first.

    Raises:
        InputError: if none does; names the options that the nearest families lack.
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
    nearest = "; ".join(text for _, text in sorted(lacking, key=lambda pair: pair[0])[:3])
    raise InputError(
        f"no family of transformers expresses this model exactly: {nearest}",
        "train with another value of one of these options, or keep the model in lavra's own format",
    )
