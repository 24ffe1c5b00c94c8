"""The lines of a family's table that concern `config.json`: each says one thing both ways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from lavra.core.errors import InputError
from lavra.models.spec import DecoderSpec

Config = dict[str, Any]

RESOLVED = {
    "kv_heads": "key_value_heads",
    "head_width": "size_of_head",
    "mlp_width": "hidden_width",
    "embedding_width": "size_of_embedding",
}
"""Fields whose 0 means "as usual" → the property with the value that is meant."""


class Rule(Protocol):
    """One line of the table."""

    def read(self, config: Config, fields: dict[str, Any]) -> None:
        """Put what `config` says into the fields of a specification.

        Raises:
            InputError: if the decoder does not compute what it says.
        """
        ...

    def write(self, spec: DecoderSpec, config: Config) -> None:
        """Put what the specification says into `config`, as far as the family has a word for it."""
        ...


@dataclass(frozen=True)
class Same:
    """A value that is the same on both sides.

    Attributes:
        name: our field.
        key: the family's.
        default: what the family means when the key is absent or null; None when it must be there.
        aliases: further keys under which it is found.
    """

    name: str
    key: str
    default: Any = None
    aliases: tuple[str, ...] = ()

    def read(self, config: Config, fields: dict[str, Any]) -> None:
        """Take the value from the first key that is there."""
        found = [config[key] for key in (self.key, *self.aliases) if config.get(key) is not None]
        if not found and self.default is None:
            raise InputError(f"the model's config.json does not say {self.key}", "copy the model again")
        fields[self.name] = found[0] if found else self.default

    def write(self, spec: DecoderSpec, config: Config) -> None:
        """Write the value, a 0 resolved."""
        config[self.key] = getattr(spec, RESOLVED.get(self.name, self.name))


@dataclass(frozen=True)
class Fixed:
    """What every model of the family has, and its configuration need not say."""

    fields: Mapping[str, Any]

    def read(self, config: Config, fields: dict[str, Any]) -> None:
        """Set our fields."""
        fields.update(self.fields)

    def write(self, spec: DecoderSpec, config: Config) -> None:
        """Write nothing."""


@dataclass(frozen=True)
class Only:
    """An option of the family for which our decoder knows one value.

    Attributes:
        key: the family's.
        value: the value, which is also what an absent key means unless `default` says otherwise.
        default: what an absent key means.
    """

    key: str
    value: Any
    default: Any = field(default=...)

    def read(self, config: Config, fields: dict[str, Any]) -> None:
        """Refuse any other value."""
        value = config.get(self.key, self.value if self.default is ... else self.default)
        if value != self.value:
            raise unsupported(self.key, value)

    def write(self, spec: DecoderSpec, config: Config) -> None:
        """Write the value."""
        config[self.key] = self.value


@dataclass(frozen=True)
class Choice:
    """A value that has another name in the family.

    Attributes:
        name: our field.
        key: the family's.
        names: theirs → ours; of several that mean the same, the first is written.
        default: theirs, where the key is absent.
    """

    name: str
    key: str
    names: Mapping[Any, Any]
    default: Any

    def read(self, config: Config, fields: dict[str, Any]) -> None:
        """Translate; refuse an unknown name."""
        value = config.get(self.key, self.default)
        if value not in self.names:
            raise unsupported(self.key, value)
        fields[self.name] = self.names[value]

    def write(self, spec: DecoderSpec, config: Config) -> None:
        """Translate back; a value without a name becomes the default, which reading back shows."""
        ours = getattr(spec, self.name)
        config[self.key] = next((theirs for theirs, name in self.names.items() if name == ours), self.default)


@dataclass(frozen=True)
class Switch:
    """One switch of the family for several of ours, on if any of ours is (an absent bias is a bias of zero)."""

    names: tuple[str, ...]
    key: str
    default: bool

    def read(self, config: Config, fields: dict[str, Any]) -> None:
        """Set all of ours."""
        fields.update(dict.fromkeys(self.names, bool(config.get(self.key, self.default))))

    def write(self, spec: DecoderSpec, config: Config) -> None:
        """Write whether any of ours is on."""
        config[self.key] = any(getattr(spec, name) for name in self.names)


@dataclass(frozen=True)
class Dropout:
    """The family's dropout rates. They are read as 0: dropout belongs to a training, which sets its own."""

    keys: tuple[str, ...]

    def read(self, config: Config, fields: dict[str, Any]) -> None:
        """Set none."""
        fields["dropout"] = 0.0

    def write(self, spec: DecoderSpec, config: Config) -> None:
        """Write ours under each key."""
        config.update(dict.fromkeys(self.keys, spec.dropout))


@dataclass(frozen=True)
class Rotary:
    """Rotary positions, as `rope_parameters` (transformers 5) or as `rope_theta` and `rope_scaling` (before).

    Attributes:
        base_key: the older key of the base.
        share_key: the older key of the rotated share of a head; None where the family always rotates all of it.
        share: the share, when no key says it.
    """

    base_key: str = "rope_theta"
    share_key: str | None = None
    share: float = 1.0

    def read(self, config: Config, fields: dict[str, Any]) -> None:
        """Take base, share and scaling; refuse scalings other than `linear` and `llama3`."""
        found: Config = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
        base = found.get("rope_theta") or config.get(self.base_key) or 10000.0
        share = found.get("partial_rotary_factor")
        if share is None:
            share = config.get(self.share_key, self.share) if self.share_key else config.get("partial_rotary_factor")
        share = self.share if share is None else share
        if not self.share_key and share != self.share:
            raise unsupported("partial_rotary_factor", share)
        fields.update(positions="rope", rope_base=float(base), rope_fraction=float(share))
        fields.update(_read_scaling(found, config.get("max_position_embeddings")))

    def write(self, spec: DecoderSpec, config: Config) -> None:
        """Write both forms, so that older programs read it too."""
        scaling = _write_scaling(spec)
        parameters = {**(scaling or {"rope_type": "default"}), "rope_theta": spec.rope_base}
        config[self.base_key] = spec.rope_base
        if self.share_key:
            config[self.share_key] = parameters["partial_rotary_factor"] = spec.rope_fraction
        if scaling:
            config["rope_scaling"] = scaling
        config["rope_parameters"] = parameters


@dataclass(frozen=True)
class Window:
    """A sliding window of attention. Up to its length it changes nothing, so that becomes our longest context.

    Attributes:
        default: of `sliding_window`, when the key is absent.
        switch: the key that turns it on, where the family has one (off by default).
    """

    default: int | None
    switch: str | None = None

    def read(self, config: Config, fields: dict[str, Any]) -> None:
        """Shorten the context to the window."""
        window = config.get("sliding_window", self.default)
        if window and (self.switch is None or config.get(self.switch)):
            fields["context"] = min(fields["context"], window)

    def write(self, spec: DecoderSpec, config: Config) -> None:
        """Turn it off."""
        config["sliding_window"] = None
        if self.switch is not None:
            config[self.switch] = False


def unsupported(key: str, value: Any) -> InputError:
    """Return the error for an option that our decoder does not compute."""
    return InputError(
        f"the model's config.json says {key} = {value!r}, which lavra's decoder does not compute",
        "choose another model, or convert this one to a form without that option",
    )


def _read_scaling(found: Config, context: int | None) -> dict[str, Any]:
    kind = found.get("rope_type") or found.get("type") or "default"
    if kind == "default":
        return {}
    if kind in ("linear", "llama3") and not found.get("factor"):
        raise unsupported("rope_scaling.factor", found.get("factor"))
    if kind == "linear":
        return {"rope_scaling": float(found["factor"])}
    if kind == "llama3":
        for key, value in (("low_freq_factor", 1.0), ("high_freq_factor", 4.0)):
            if found.get(key) != value:
                raise unsupported(f"rope_scaling.{key}", found.get(key))
        before = found.get("original_max_position_embeddings") or context
        return {"rope_scaling": float(found["factor"]), "rope_scaling_context": before}
    raise unsupported("rope_scaling.rope_type", kind)


def _write_scaling(spec: DecoderSpec) -> Config | None:
    if spec.rope_scaling == 1.0:
        return None
    if not spec.rope_scaling_context:
        return {"rope_type": "linear", "factor": spec.rope_scaling}
    return {
        "rope_type": "llama3",
        "factor": spec.rope_scaling,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": spec.rope_scaling_context,
    }
