"""A family's table, and what follows from it: specifications, tensors by name, and whether it can express a model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch.nn import functional as F

from lavra.core.errors import Damaged, InputError
from lavra.models.families.layouts import SAME, Layout
from lavra.models.families.rules import RESOLVED, Choice, Config, Rule
from lavra.models.native.decoder import Decoder
from lavra.models.spec import DecoderSpec

_HEAD = "output"
_BLOCKS = "blocks."
_FREE = frozenset({"dropout", "initialization"})
"""Fields that say how a model is trained, not what it computes."""

_WIDENED = frozenset({"norm_weight", "qk_norm_weight", "attention_bias", "output_bias", "mlp_bias"})
"""Fields that can be on where a model has them off: a gain of one and a bias of zero change nothing."""


@dataclass(frozen=True)
class Names:
    """One line of the table that concerns tensors: our name and the family's, without `.weight` and `.bias`.

    Attributes:
        ours: as in our decoder; `{}` stands for the number of the block.
        theirs: one or several, without the family's prefix.
        layout: how the family lays the tensor out.
    """

    ours: str
    theirs: tuple[str, ...]
    layout: Layout = SAME


@dataclass(frozen=True)
class Family:
    """One architecture of `transformers`.

    Attributes:
        name: its `model_type`.
        title: its name in messages.
        architecture: its class for causal language modelling.
        rules: its configuration; a later rule may correct what an earlier one read.
        names: its tensors.
        prefix: before the names of all tensors but the head's, where the file is of the whole model.
        ignored: patterns of tensors that are constants or caches and are not read.
        head: name of the head, which has no prefix.
    """

    name: str
    title: str
    architecture: str
    rules: tuple[Rule, ...]
    names: tuple[Names, ...]
    prefix: str
    ignored: tuple[str, ...] = ()
    head: str = "lm_head"

    def read_spec(self, config: Config) -> DecoderSpec:
        """Return the specification of a model with this configuration.

        Raises:
            InputError: if our decoder cannot compute it; names the option.
        """
        fields: dict[str, Any] = {"initialization": "gpt2"}
        for rule in self.rules:
            rule.read(config, fields)
        return DecoderSpec.from_dict(fields)

    def write_config(self, spec: DecoderSpec) -> Config:
        """Return the configuration that comes nearest to the specification; see `missing` for whether it is exact."""
        config: Config = {"architectures": [self.architecture], "model_type": self.name}
        for rule in self.rules:
            rule.write(spec, config)
        return config

    def is_usual(self, spec: DecoderSpec) -> bool:
        """Say whether the model has what the family's own models have, where there is a choice."""
        choices = (rule for rule in self.rules if isinstance(rule, Choice))
        return all(getattr(spec, rule.name) == rule.names[rule.default] for rule in choices)

    def expected_names(self, spec: DecoderSpec) -> Iterator[tuple[str, tuple[str, ...], Layout]]:
        """Yield our name, the family's names (without prefix) and the layout of every tensor of the specification."""
        lines = {line.ours: line for line in self.names}
        for name in shapes(spec):
            stem, _, kind = name.rpartition(".")
            number = re.match(rf"{_BLOCKS}(\d+)\.", stem)
            line = lines[re.sub(rf"^{_BLOCKS}\d+\.", f"{_BLOCKS}{{}}.", stem)]
            theirs = tuple(f"{part.format(number.group(1) if number else '')}.{kind}" for part in line.theirs)
            yield name, theirs, line.layout

    def full_name(self, name: str) -> str:
        """Return a tensor's name in a file of the whole model."""
        return name if name.startswith(f"{self.head}.") else self.prefix + name

    def is_ignored(self, name: str) -> bool:
        """Say whether a tensor of the file (without prefix) is not part of the model."""
        return any(re.fullmatch(pattern, name) for pattern in self.ignored)


@lru_cache(maxsize=64)
def shapes(spec: DecoderSpec) -> dict[str, torch.Size]:
    """Return the shape of every parameter of a decoder, shared ones once, without making it."""
    with torch.device("meta"):
        model = Decoder(spec)
    return {name: parameter.shape for name, parameter in model.named_parameters()}


def missing(family: Family, spec: DecoderSpec) -> tuple[DecoderSpec | None, list[str]]:
    """Say how a family expresses a specification.

    Returns:
        The specification that the family's model will have (a superset: its extra gains are one, its extra biases zero)
        and no differences; or None and the fields that it cannot express, each with its value.
    """
    best: list[str] | None = None
    for candidate in _equivalents(spec):
        try:
            read = family.read_spec(family.write_config(candidate))
        except InputError as error:
            differences = [error.message]
        else:
            differences = _differences(candidate, read)
            if not differences:
                return read, []
        if best is None or len(differences) < len(best):
            best = differences
    return None, best or []


def widened(weights: Mapping[str, torch.Tensor], spec: DecoderSpec, target: DecoderSpec) -> dict[str, torch.Tensor]:
    """Return weights for `target` that compute what `weights` compute in `spec` (see `missing`)."""
    result: dict[str, torch.Tensor] = {}
    kind = weights["embedding.weight"].dtype
    for name, shape in shapes(target).items():
        if name in weights:
            result[name] = weights[name]
        elif name == f"{_HEAD}.weight":
            result[name] = weights["embedding.weight"]
        elif name.endswith("norm.weight"):
            result[name] = torch.ones(shape, dtype=kind)
        else:
            result[name] = torch.zeros(shape, dtype=kind)
    if spec.embedding_norm and not target.embedding_norm:
        table = weights["embedding.weight"]
        result["embedding.weight"] = F.rms_norm(table.float(), (spec.width,), eps=spec.norm_epsilon).to(kind)
    return result


def _equivalents(spec: DecoderSpec) -> Iterator[DecoderSpec]:
    """Yield the specification, and others of models that compute the same."""
    yield spec
    if spec.positions == "none":
        yield replace(spec, positions="learned")  # all zero
    foldable = spec.embedding_norm and not spec.embedding_norm_weight and spec.size_of_embedding == spec.width
    if foldable and spec.positions != "learned":
        # A norm of single rows of a table is another table; the head keeps the rows as they were.
        yield replace(spec, embedding_norm=False, tied=False)


def _differences(spec: DecoderSpec, read: DecoderSpec) -> list[str]:
    ours, theirs = _canonical(spec), _canonical(read)
    return [
        f"{name} = {ours[name]!r}"
        for name in ours
        if ours[name] != theirs[name] and not (name in _WIDENED and theirs[name] is True)
    ]


def _canonical(spec: DecoderSpec) -> dict[str, Any]:
    """Return the fields that matter to what is computed, zeros resolved, and those without effect left out."""
    values = {name: value for name, value in asdict(spec).items() if name not in _FREE}
    values.update({name: getattr(spec, resolved) for name, resolved in RESOLVED.items()})
    neutral = DecoderSpec()
    if spec.positions != "rope":
        values.update({name: getattr(neutral, name) for name in values if name.startswith("rope_")})
    if not spec.qk_norm:
        values["qk_norm_weight"] = False
    return values


def join(
    family: Family, spec: DecoderSpec, get: Callable[[str], torch.Tensor], dtype: torch.dtype, place: str
) -> dict[str, torch.Tensor]:
    """Return our tensors, each made of the family's.

    Args:
        family: whose table to use.
        spec: of the model.
        get: the family's tensor of a name (without prefix).
        dtype: type of the result.
        place: the file's name, for messages.

    Raises:
        Damaged: if a tensor has another shape than the specification asks for.
    """
    result: dict[str, torch.Tensor] = {}
    for name, theirs, layout in family.expected_names(spec):
        wanted = shapes(spec)[name]
        parts = [get(part) for part in theirs]
        try:
            tensor = layout.join(parts, spec)
        except RuntimeError:
            tensor = None
        if tensor is None or tensor.shape != wanted:
            found = ", ".join(f"{part} {tuple(value.shape)}" for part, value in zip(theirs, parts, strict=True))
            raise Damaged(
                f"{place} does not fit its config.json: {found} cannot be {name} {tuple(wanted)}",
                "copy the model again",
            )
        result[name] = tensor.to(dtype).clone(memory_format=torch.contiguous_format)
    return result


def part(family: Family, spec: DecoderSpec, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the family's tensors by full name, made of ours."""
    result: dict[str, torch.Tensor] = {}
    for name, theirs, layout in family.expected_names(spec):
        for theirs_name, tensor in zip(theirs, layout.part(weights[name], spec), strict=True):
            result[family.full_name(theirs_name)] = tensor.contiguous()
    return result
