"""Rules for the `config.json` of a family: each translates one setting in both directions."""

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
    "encoder_depth": "blocks_of_encoder",
}
"""Property that holds the effective value of each field whose 0 stands for a default."""


class Rule(Protocol):
    """A rule that translates one setting between `config.json` and our specification."""

    def read(self, config: Config, fields: dict[str, Any]) -> None:
        """Set fields of a specification from a configuration.

        Args:
            config: Content of `config.json`.
            fields: Fields of the specification, changed in place.

        Raises:
            InputError: If our decoder does not compute what the configuration says.
        """
        ...

    def write(self, spec: DecoderSpec, config: Config) -> None:
        """Set keys of a configuration from a specification, as far as the family has the setting.

        Args:
            spec: Specification of a decoder.
            config: Content of `config.json`, changed in place.
        """
        ...


@dataclass(frozen=True)
class Same:
    """A value that is the same in both.

    Attributes:
        name: Field of our specification.
        key: Key of the family.
        default: Value where the key is absent or null; None means that the key is required.
        aliases: Further keys under which the value may stand.
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
    """Values that every model of the family has, without keys in its configuration.

    Attributes:
        fields: Fields of our specification with their values.
    """

    fields: Mapping[str, Any]

    def read(self, config: Config, fields: dict[str, Any]) -> None:
        """Set our fields."""
        fields.update(self.fields)

    def write(self, spec: DecoderSpec, config: Config) -> None:
        """Write nothing."""


@dataclass(frozen=True)
class Only:
    """An option of the family for which our decoder supports only one value.

    Attributes:
        key: Key of the family.
        value: Supported value.
        default: Value where the key is absent; by default the supported one.
    """

    key: str
    value: Any
    default: Any = field(default=...)

    def read(self, config: Config, fields: dict[str, Any]) -> None:
        """Raise an error for any other value."""
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
        name: Field of our specification.
        key: Key of the family.
        names: Our value for each value of the family. Of several that mean the same, the first one is written.
        default: Value of the family where the key is absent.
    """

    name: str
    key: str
    names: Mapping[Any, Any]
    default: Any

    def read(self, config: Config, fields: dict[str, Any]) -> None:
        """Translate the value, and raise an error for an unknown one."""
        value = config.get(self.key, self.default)
        if value not in self.names:
            raise unsupported(self.key, value)
        fields[self.name] = self.names[value]

    def write(self, spec: DecoderSpec, config: Config) -> None:
        """Translate the value back. One without a name becomes the default, which `missing` notices."""
        ours = getattr(spec, self.name)
        config[self.key] = next((theirs for theirs, name in self.names.items() if name == ours), self.default)


@dataclass(frozen=True)
class Switch:
    """One switch of the family for several fields of ours; it is on if any of them is.

    Writing it as on loses nothing, because a missing bias is a bias of zero.

    Attributes:
        names: Fields of our specification.
        key: Key of the family.
        default: Value where the key is absent.
    """

    names: tuple[str, ...]
    key: str
    default: bool

    def read(self, config: Config, fields: dict[str, Any]) -> None:
        """Set all fields."""
        fields.update(dict.fromkeys(self.names, bool(config.get(self.key, self.default))))

    def write(self, spec: DecoderSpec, config: Config) -> None:
        """Write whether any of the fields is on."""
        config[self.key] = any(getattr(spec, name) for name in self.names)


@dataclass(frozen=True)
class Dropout:
    """Dropout probabilities of the family, read as 0 because a training run sets its own.

    Attributes:
        keys: Keys of the family.
    """

    keys: tuple[str, ...]

    def read(self, config: Config, fields: dict[str, Any]) -> None:
        """Set a dropout of 0."""
        fields["dropout"] = 0.0

    def write(self, spec: DecoderSpec, config: Config) -> None:
        """Write our dropout under each key."""
        config.update(dict.fromkeys(self.keys, spec.dropout))


@dataclass(frozen=True)
class Rotary:
    """Rotary positions, as `rope_parameters` (transformers 5) or as `rope_theta` and `rope_scaling` (before).

    Attributes:
        base_key: Older key of the base.
        share_key: Older key of the rotated share of a head; None where the family always rotates the whole head.
        share: Rotated share where no key says it.
    """

    base_key: str = "rope_theta"
    share_key: str | None = None
    share: float = 1.0

    def read(self, config: Config, fields: dict[str, Any]) -> None:
        """Set base, share and scaling, and raise an error for scalings other than `linear` and `llama3`."""
        found: Config = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
        base = found.get("rope_theta") or config.get(self.base_key) or 10000.0
        share = found.get("partial_rotary_factor")
        if share is None:
            share = config.get(self.share_key, self.share) if self.share_key else config.get("partial_rotary_factor")
        share = self.share if share is None else share
        if not self.share_key and share != self.share:
            raise unsupported("partial_rotary_factor", share)
        fields.update(positions="rope", rope_base=float(base), rope_fraction=float(share))
        fields.update(read_scaling(found, config.get("max_position_embeddings")))

    def write(self, spec: DecoderSpec, config: Config) -> None:
        """Write both forms, so that older programs read it too."""
        scaling = write_scaling(spec)
        parameters = {**(scaling or {"rope_type": "default"}), "rope_theta": spec.rope_base}
        config[self.base_key] = spec.rope_base
        if self.share_key:
            config[self.share_key] = parameters["partial_rotary_factor"] = spec.rope_fraction
        if scaling:
            config["rope_scaling"] = scaling
        config["rope_parameters"] = parameters


@dataclass(frozen=True)
class Window:
    """A sliding window of attention. It changes nothing up to its length, which therefore becomes our context.

    Attributes:
        default: Value of `sliding_window` where the key is absent.
        switch: Key that turns the window on, which is off by default; None where the family has no such key.
    """

    default: int | None
    switch: str | None = None

    def read(self, config: Config, fields: dict[str, Any]) -> None:
        """Shorten the context to the window."""
        window = config.get("sliding_window", self.default)
        if window and (self.switch is None or config.get(self.switch)):
            fields["context"] = min(fields["context"], window)

    def write(self, spec: DecoderSpec, config: Config) -> None:
        """Turn the window off."""
        config["sliding_window"] = None
        if self.switch is not None:
            config[self.switch] = False


@dataclass(frozen=True)
class SlidingWindow:
    """A sliding window in every block: a token sees itself and as many tokens before it as the window has less one.

    Attributes:
        default: Value of `sliding_window` where the key is absent.
    """

    default: int

    def read(self, config: Config, fields: dict[str, Any]) -> None:
        """Set the window, where it is shorter than the context."""
        window = config.get("sliding_window", self.default)
        if window == 1:
            raise unsupported("sliding_window", window)
        if window and window < fields["context"]:
            fields["window"] = window - 1

    def write(self, spec: DecoderSpec, config: Config) -> None:
        """Write the window, or that there is none. One that some blocks lack becomes one that all have."""
        config["sliding_window"] = spec.window + 1 if spec.window else None


@dataclass(frozen=True)
class WholeHeads:
    """A check that the width is a multiple of the heads, which some families demand in any case."""

    def read(self, config: Config, fields: dict[str, Any]) -> None:
        """Raise an error where it is not."""
        if fields["width"] % fields["heads"]:
            raise unsupported("num_attention_heads", fields["heads"])

    def write(self, spec: DecoderSpec, config: Config) -> None:
        """Write nothing."""


def unsupported(key: str, value: Any) -> InputError:
    """Return the error for an option that our decoder does not compute.

    Args:
        key: Key in `config.json`.
        value: Value of the option.
    """
    return InputError(
        f"the model's config.json says {key} = {value!r}, which lavra's decoder does not compute",
        "choose another model, or convert this one to a form without that option",
    )


def read_scaling(found: Config, context: int | None) -> dict[str, Any]:
    """Return our fields for a scaling of rotary positions; none where nothing is scaled.

    Args:
        found: Parameters of the rotary positions, as `rope_parameters` has them.
        context: Context of the model, which stands for that of its first training where the parameters name none.

    Raises:
        InputError: If the scaling is another one than `linear` and `llama3`.
    """
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


def write_scaling(spec: DecoderSpec) -> Config | None:
    """Return the scaling of rotary positions as `rope_parameters` has it; None where nothing is scaled.

    Args:
        spec: Specification of a decoder.
    """
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
