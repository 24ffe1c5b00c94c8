"""The table of a family, from which specifications, tensor names and the test whether it can express a model follow."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch.nn import functional as F

from lavra.core.errors import CorruptFile, InputError
from lavra.models.families.layouts import SAME, Layout
from lavra.models.families.rules import RESOLVED, Choice, Config, Rule
from lavra.models.native.building import decoder_of
from lavra.models.spec import DecoderSpec

_HEAD = "output"
_BLOCKS = "blocks."
_EXPERT = re.compile(r"\.experts\.(\d+)\.")
_FREE = frozenset({"dropout", "initialization", "balance_loss"})
"""Fields of a specification that concern training and not the computation of the trained model."""

_WIDENED = frozenset(
    {"norm_weight", "norm_bias", "qk_norm_weight", "attention_bias", "output_bias", "mlp_bias", "head_bias"}
)
"""Fields that may be on in the written model where the model has them off: a gain of one and a bias of zero change
nothing."""


@dataclass(frozen=True)
class Names:
    """A line of the table for tensors: our name and that of the family, without `.weight` and `.bias`.

    Attributes:
        ours: Name in our decoder; `{}` stands for the number of the block, and a second one for that of an expert.
        theirs: One or several names in the family, without its prefix.
        layout: Layout of the tensor in the family.
        when: Whether the line holds for a specification; None holds for all.
    """

    ours: str
    theirs: tuple[str, ...]
    layout: Layout = SAME
    when: Callable[[DecoderSpec], bool] | None = None


@dataclass(frozen=True)
class Family:
    """One architecture of `transformers`.

    Attributes:
        name: `model_type` of the family.
        title: Name for messages.
        architecture: Name of its class that predicts tokens.
        rules: Rules for its configuration. A later rule may correct what an earlier one read.
        names: Names of its tensors.
        prefix: Prefix of the names of all tensors but the head, where the file holds the whole model.
        ignored: Patterns of the names of tensors that are constants or caches and are not read.
        head: Name of the head, which has no prefix.
        outside: Beginnings of the names of further tensors without the prefix.
        constants: Function from the specification to tensors that files of the family hold and that we compute, by
            name without prefix; None where there are none.
        note: Sentence about what reading such a model leaves out; empty where it leaves out nothing.
    """

    name: str
    title: str
    architecture: str
    rules: tuple[Rule, ...]
    names: tuple[Names, ...]
    prefix: str
    ignored: tuple[str, ...] = ()
    head: str = "lm_head"
    outside: tuple[str, ...] = ()
    constants: Callable[[DecoderSpec], dict[str, torch.Tensor]] | None = None
    note: str = ""

    def read_spec(self, config: Config) -> DecoderSpec:
        """Return the specification of the model that a configuration describes.

        Args:
            config: Content of `config.json`.

        Raises:
            InputError: If our decoder cannot compute it; the message names the option.
        """
        fields: dict[str, Any] = {"initialization": "gpt2"}
        for rule in self.rules:
            rule.read(config, fields)
        return DecoderSpec.from_dict(fields)

    def write_config(self, spec: DecoderSpec) -> Config:
        """Return the configuration that is nearest to a specification; `missing` tells whether it is exact.

        Args:
            spec: Specification of a decoder.
        """
        config: Config = {"architectures": [self.architecture], "model_type": self.name}
        for rule in self.rules:
            rule.write(spec, config)
        return config

    def is_usual(self, spec: DecoderSpec) -> bool:
        """Return whether a model has the default values of the family wherever there is a choice.

        Args:
            spec: Specification of a decoder.
        """
        choices = (rule for rule in self.rules if isinstance(rule, Choice))
        return all(getattr(spec, rule.name) == rule.names[rule.default] for rule in choices)

    def expected_names(self, spec: DecoderSpec) -> Iterator[tuple[str, tuple[str, ...], Layout]]:
        """Yield our name, the names in the family (without prefix) and the layout of every tensor of a model.

        Args:
            spec: Specification of a decoder.
        """
        lines = {line.ours: line for line in self.names if line.when is None or line.when(spec)}
        for name in shapes(spec):
            stem, _, kind = name.rpartition(".")
            number = re.search(rf"(?:^|\.){_BLOCKS}(\d+)\.", stem)
            if name in lines:  # a line for one tensor of a module alone
                yield name, lines[name].theirs, lines[name].layout
                continue
            expert = _EXPERT.search(stem)
            pattern = re.sub(rf"(^|\.){_BLOCKS}\d+\.", rf"\1{_BLOCKS}{{}}.", _EXPERT.sub(".experts.{}.", stem))
            line, numbers = lines[pattern], [found.group(1) for found in (number, expert) if found]
            theirs = tuple(f"{part.format(*numbers)}.{kind}" for part in line.theirs)
            yield name, theirs, line.layout

    def full_name(self, name: str) -> str:
        """Return the name of a tensor in a file of the whole model.

        Args:
            name: Name in the family, without prefix.
        """
        return name if name.startswith((f"{self.head}.", *self.outside)) else self.prefix + name

    def is_ignored(self, name: str) -> bool:
        """Return whether a tensor of the file is not part of the model.

        Args:
            name: Name in the family, without prefix.
        """
        return any(re.fullmatch(pattern, name) for pattern in self.ignored)


@lru_cache(maxsize=64)
def shapes(spec: DecoderSpec) -> dict[str, torch.Size]:
    """Return the shape of every parameter of a decoder by name, shared ones once, without allocating them.

    Args:
        spec: Specification of a decoder.
    """
    with torch.device("meta"):
        model = decoder_of(spec)
    return {name: parameter.shape for name, parameter in model.named_parameters()}


def missing(family: Family, spec: DecoderSpec) -> tuple[DecoderSpec | None, list[str]]:
    """Return how a family expresses a specification.

    Args:
        family: Family of architectures.
        spec: Specification of a decoder.

    Returns:
        The specification of the family's model, whose additional gains are one and additional biases zero, and no
        differences; or None and the fields that the family cannot express, each with its value.
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
    """Return weights for the specification `target` that compute the same as `weights` do in `spec`.

    Args:
        weights: Weights of a decoder by name.
        spec: Specification of the decoder.
        target: Specification that `missing` returned for it.
    """
    result: dict[str, torch.Tensor] = {}
    kind = weights["embedding.weight"].dtype
    for name, shape in shapes(target).items():
        if (same := _shared(name, spec)) in weights:
            result[name] = weights[same]
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


def _shared(name: str, spec: DecoderSpec) -> str:
    """Return the name under which a specification has a tensor, whose block may be that of an earlier number."""
    number = re.match(rf"{_BLOCKS}(\d+)\.(\w+)\.", name)
    if number is None or not spec.shared_blocks or (spec.own_norms and number[2] not in ("attention", "mlp")):
        return name
    return f"{_BLOCKS}{int(number[1]) % spec.shared_blocks}{name[number.end(1) :]}"


def _equivalents(spec: DecoderSpec) -> Iterator[DecoderSpec]:
    """Yield the specification, and others whose models can compute the same."""
    yield spec
    if spec.shared_blocks:
        spec = replace(spec, shared_blocks=0, own_norms=False)  # each block of its own, with the same weights
        yield spec
    if spec.positions == "none":
        yield replace(spec, positions="learned")  # position embeddings that are zero change nothing
    foldable = spec.embedding_norm and not spec.embedding_norm_weight and spec.size_of_embedding == spec.width
    if foldable and spec.positions != "learned":
        # The norm can be merged into the embedding, because it works on single rows; a head of its own keeps the old
        # rows.
        yield replace(spec, embedding_norm=False, tied=False)


def _differences(spec: DecoderSpec, read: DecoderSpec) -> list[str]:
    ours, theirs = _canonical(spec), _canonical(read)
    return [
        f"{name} = {ours[name]!r}"
        for name in ours
        if ours[name] != theirs[name] and not (name in _WIDENED and theirs[name] is True)
    ]


def _canonical(spec: DecoderSpec) -> dict[str, Any]:
    """Return the fields that affect the computation, with zeros replaced by the values that they stand for."""
    values = {name: value for name, value in asdict(spec).items() if name not in _FREE}
    values.update({name: getattr(spec, resolved) for name, resolved in RESOLVED.items()})
    neutral = DecoderSpec()
    if spec.positions != "rope":
        values.update({name: getattr(neutral, name) for name in values if name.startswith("rope_")})
    if not spec.qk_norm:
        values["qk_norm_weight"] = False
    if spec.positions != "relative":
        values.update(relative_buckets=neutral.relative_buckets, relative_distance=neutral.relative_distance)
    if not spec.experts:
        values.update(experts_per_token=neutral.experts_per_token, expert_normalized=True)
    if spec.heads == 1:
        values["qk_norm_whole"] = False  # the norm of all heads is that of the one
    if spec.architecture != "encoder-decoder":
        values.update(encoder_depth=0, decoder_start=0)
    values["attention_scale"] = spec.attention_scale or spec.size_of_head**-0.5
    if spec.norm != "layernorm" or not (spec.norm_weight or spec.embedding_norm_weight):
        values["norm_bias"] = False  # no norm could have one
    if spec.shared_blocks == spec.depth:
        values.update(shared_blocks=0, own_norms=False)
    values["local_blocks"] = [spec.is_local(number) for number in range(spec.depth)]
    if not any(values["local_blocks"]):
        values.update(window=0, rope_local_base=0.0)
    if values["rope_local_base"] == values["rope_base"] and spec.rope_scaling == 1.0:
        values["rope_local_base"] = 0.0
    for name in ("global_every", "global_first"):
        del values[name]
    return values


def join(
    family: Family, spec: DecoderSpec, get: Callable[[str], torch.Tensor], dtype: torch.dtype, place: str
) -> dict[str, torch.Tensor]:
    """Return the tensors of our decoder by name, made of those of the family.

    Args:
        family: Family of the model that is read.
        spec: Specification of the model.
        get: Function from a name in the family, without prefix, to the tensor.
        dtype: Type of the returned tensors.
        place: Name of the file, for error messages.

    Raises:
        CorruptFile: If a tensor has another shape than the specification demands.
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
            raise CorruptFile(
                f"{place} does not fit its config.json: {found} cannot be {name} {tuple(wanted)}",
                "copy the model again",
            )
        result[name] = tensor.to(dtype).clone(memory_format=torch.contiguous_format)
    return result


def part(family: Family, spec: DecoderSpec, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of the family by full name, made of those of our decoder.

    Args:
        family: Family of the model that is written.
        spec: Specification of the model.
        weights: Tensors of our decoder by name.
    """
    result: dict[str, torch.Tensor] = {}
    for name, theirs, layout in family.expected_names(spec):
        for theirs_name, tensor in zip(theirs, layout.part(weights[name], spec), strict=True):
            result[family.full_name(theirs_name)] = tensor.contiguous()
    kind = weights["embedding.weight"].dtype
    constants = {} if family.constants is None else family.constants(spec)
    return result | {family.full_name(name): tensor.to(kind) for name, tensor in constants.items()}
