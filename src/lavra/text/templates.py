"""Prompt templates: Jinja templates in TOML files, with several phrasings of one task under one name."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lavra.core.errors import InputError

BUILT_IN = Path(__file__).with_name("prompts")
"""Folder of the TOML files that come with lavra."""


@dataclass(frozen=True)
class Template:
    """One phrasing of a task.

    Attributes:
        name: Name of the template in messages.
        text: The Jinja template, which runs in a sandbox. The task decides which variables it may use; for
            classification they are `text`, `labels` and `examples`, whose members have `text` and `label`. The model's
            answer comes after the end of the text.

    Examples:
        >>> from lavra.text.templates import Template
        >>> template = Template("short", "{{ text }}" + chr(10) + "Label ({{ labels|join(' or ') }}):")
        >>> print(template.fill({"text": "It never arrived.", "labels": ["good", "bad"]}))
        It never arrived.
        Label (good or bad):
    """

    name: str
    text: str

    @cached_property
    def _compiled(self) -> Any:
        from jinja2 import StrictUndefined, TemplateError
        from jinja2.sandbox import SandboxedEnvironment

        environment = SandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        try:
            return environment.from_string(self.text)
        except TemplateError as error:
            raise InputError(f"the template {self.name} is not right: {error}", "correct it") from error

    def fill(self, values: Mapping[str, Any]) -> str:
        """Return the prompt: the text of the template with the values of its variables.

        Args:
            values: The values of the variables by name.

        Raises:
            InputError: if the template is wrong or uses a variable that has no value.
        """
        from jinja2 import TemplateError

        try:
            return self._compiled.render(values)
        except TemplateError as error:
            raise InputError(
                f"the template {self.name} cannot be filled: {error}", f"it may use {', '.join(sorted(values))}"
            ) from error


def read_templates(location: str) -> list[Template]:
    """Return the templates of a TOML file: tables `[[template]]` with `name` and `text`.

    Args:
        location: Path of a file, or the name of a built-in set: "classify" or "classify-pt".

    Raises:
        InputError: if there is no such file, or it holds no templates.

    Examples:
        >>> from lavra.text.templates import read_templates
        >>> len(read_templates("classify-pt")) > 0
        True
    """
    built_in = BUILT_IN / f"{location}.toml"
    path = built_in if built_in.exists() else Path(location)
    try:
        tables = tomllib.loads(path.read_text(encoding="utf8")).get("template", [])
        templates = [Template(str(table["name"]), str(table["text"])) for table in tables]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        names = ", ".join(sorted(one.stem for one in BUILT_IN.glob("*.toml")))
        raise InputError(
            f"the templates {location} cannot be read: {error}",
            f"give a TOML file of [[template]] tables with name and text, or one of {names}",
        ) from error
    if not templates:
        raise InputError(f"{path} holds no [[template]]", "give at least one, with name and text")
    return templates
