"""The model card (README.md) of an exported model: shape, training, measures, use, certificate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lavra.core.units import counted
from lavra.models.certificate import Certificate
from lavra.models.head_certificate import HeadCertificate
from lavra.models.hf.model import HFModel
from lavra.models.spec import DecoderSpec
from lavra.reports.labels.headline import headline_of
from lavra.workflows.export.labels_card import labels_section, metrics_section, used

_HEADER = """---
library_name: transformers
pipeline_tag: {task}
tags:
- lavra
- {family}
---

# {name}

"""

_DECODER = (
    "{architecture} of {parameters:,} parameters ({blocks}, width {width}, a vocabulary of {vocabulary:,} tokens, a "
    "context of {context} tokens),\nin the form of `{family}`.\n"
)

_HF_MODEL = (
    "An instance of `{architecture}` with {parameters:,} parameters (a vocabulary of {vocabulary:,} tokens, a context "
    "of {context} tokens).\n"
)

_USE = """
## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForCausalLM.from_pretrained("{name}")
ids = tokenizer("{prompt}", return_tensors="pt")
print(tokenizer.decode(model.generate(**ids, max_new_tokens=50)[0]))
```
"""

_USE_MASKED = """
## Use

```python
from transformers import pipeline

fill = pipeline("fill-mask", "{name}")
print(fill(f"Era uma {{fill.tokenizer.mask_token}} vez."))
```
"""

_USE_SEQ2SEQ = """
## Use

```python
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForSeq2SeqLM.from_pretrained("{name}")
ids = tokenizer("{prompt}", return_tensors="pt")
print(tokenizer.decode(model.generate(**ids, max_new_tokens=50)[0], skip_special_tokens=True))
```
"""

_USE_TOKENS = """
## Use

```python
from transformers import pipeline

tag = pipeline("token-classification", "{name}", aggregation_strategy="simple")
print(tag("{prompt}"))
```
"""

_USE_SPANS = """
## Use

```python
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForQuestionAnswering.from_pretrained("{name}")
ids = tokenizer("a question", "{prompt}", return_tensors="pt")
scores = model(**ids)  # of each token as the first and as the last of the answer
print(tokenizer.decode(ids["input_ids"][0, scores.start_logits.argmax() : scores.end_logits.argmax() + 1]))
```
"""

_USE_LABELS = """
## Use

```python
from transformers import pipeline

classify = pipeline("text-classification", "{name}")
print(classify({given}{options}))
```

`lavra classify {name} --text "…"` gives the same, and `lavra evaluate {name} --data FILE` measures it.
"""

_KINDS = {
    "decoder": ("text-generation", _USE),
    "encoder": ("fill-mask", _USE_MASKED),
    "encoder-decoder": ("text2text-generation", _USE_SEQ2SEQ),
    "token": ("token-classification", _USE_TOKENS),
    "span": ("question-answering", _USE_SPANS),
    "sequence": ("text-classification", _USE_LABELS),
}
"""For each kind of model, or of the head of a task, the name of its task on the Hugging Face hub, and the section about
its use."""

_MEASURES = (
    ("loss", "nats per token"),
    ("perplexity", "perplexity per token"),
    ("bits_per_byte", "bits per byte"),
    ("bits_per_word", "bits per word"),
)


def model_card(
    name: str,
    family: str,
    spec: DecoderSpec,
    parameters: int,
    certificate: Certificate | HeadCertificate,
    result: Mapping[str, Any],
    prompt: str = "Era uma vez",
    *,
    head: str | None = None,
    task: tuple[str, Mapping[str, Any]] | None = None,
) -> str:
    """Return the model card of a model of lavra's own, in Markdown.

    Args:
        name: The name of the model.
        family: The `model_type` of the exported model.
        spec: The shape of the model.
        parameters: The number of parameters, shared ones counted once.
        certificate: The certificate of the export.
        result: The final figures of the run that trained the model; empty where there is none.
        prompt: The prompt of the example of use.
        head: The kind of the head of a task that the exported model has; None for a language model.
        task: The name and the facts of that task.
    """
    blocks = counted(spec.depth, "block")
    if spec.blocks_of_encoder:
        blocks = f"{counted(spec.blocks_of_encoder, 'block')} to read and {spec.depth} to write"
    named = {"decoder": "A decoder", "encoder": "An encoder", "encoder-decoder": "An encoder-decoder"}
    shape = {
        "architecture": named[spec.architecture],
        "blocks": blocks,
        "width": spec.width,
        "vocabulary": spec.vocabulary,
        "context": spec.context,
    }
    description = _DECODER.format(parameters=parameters, family=family, **shape)
    return _card(name, family, head or spec.architecture, description, certificate, result, prompt, task)


def hf_model_card(
    name: str,
    family: str,
    model: HFModel,
    parameters: int,
    certificate: Certificate | HeadCertificate,
    result: Mapping[str, Any],
    prompt: str = "Era uma vez",
    *,
    head: str | None = None,
    task: tuple[str, Mapping[str, Any]] | None = None,
) -> str:
    """Return the model card of a model with an architecture of `transformers`, in Markdown.

    Args:
        name: The name of the model.
        family: The `model_type` of the exported model.
        model: The model.
        parameters: The number of parameters, shared ones counted once.
        certificate: The certificate of the export.
        result: The final figures of the run that trained the model; empty where there is none.
        prompt: The prompt of the example of use.
        head: The kind of the head of a task that the exported model has; None for a language model.
        task: The name and the facts of that task.
    """
    description = _HF_MODEL.format(
        architecture=certificate.architecture,
        parameters=parameters,
        vocabulary=model.vocabulary,
        context=model.context,
    )
    return _card(name, family, head or model.kind, description, certificate, result, prompt, task)


def _card(
    name: str,
    family: str,
    kind: str,
    description: str,
    certificate: Certificate | HeadCertificate,
    result: Mapping[str, Any],
    prompt: str,
    task: tuple[str, Mapping[str, Any]] | None,
) -> str:
    purpose, use = _KINDS[kind]
    parts = [_HEADER.format(name=name, family=family, task=purpose), description]
    if task is not None:
        parts.append(labels_section(*task))
    if result:
        parts.append(_training(result))
    example = {"given": f'"{prompt}"', "options": ""} if task is None else used(*task, prompt)
    parts.append(use.format(name=name, prompt=prompt, **example))
    parts.append(f"\n## Certificate\n\n```\n{certificate}\n```\n")
    return "".join(parts)


def _training(result: Mapping[str, Any]) -> str:
    lines = ["\n## Training\n\n"]
    data = ", ".join(f"`{location}`" for location in result.get("data", ()))
    lines.append(f"Trained with lavra on {data or 'its own text'}: {counted(result.get('step'), 'step')}, ")
    targets = "target" if headline_of(result) else "token"
    lines.append(counted(result.get("tokens"), targets))
    seconds = result.get("seconds")
    lines.append(f" in {seconds / 60:.1f} minutes.\n" if seconds else ".\n")
    measures = () if headline_of(result) else _MEASURES  # those of labels have a table of their own
    rows = [(title, _estimate(result.get(key))) for key, title in measures]
    rows = [(title, text) for title, text in rows if text]
    if rows:
        documents = result.get("evaluated_documents")
        where = counted(documents, "validation document") if documents else "validation documents"
        lines.append(f"\nOn {where} (with 95 % intervals over documents, where there are enough):\n\n")
        lines.append("| measure | value |\n|---|---|\n")
        lines += [f"| {title} | {text} |\n" for title, text in rows]
    return "".join(lines) + metrics_section(result)


def _estimate(value: Any) -> str:
    if not isinstance(value, Mapping) or value.get("value") is None:
        return ""
    if value.get("low") is None:  # too few documents for an interval
        return f"{value['value']:.4g}"
    return f"{value['value']:.4g} ({value['low']:.4g} to {value['high']:.4g})"
