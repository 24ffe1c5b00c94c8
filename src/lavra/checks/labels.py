"""Check of labels: inputs and targets as text to look at, and rules for their alignment."""

from __future__ import annotations

from typing import Any

import torch

from lavra.checks.base import CheckContext, CheckResult
from lavra.checks.batches import only, read_by, spans
from lavra.core.seeds import fixed_normal
from lavra.models.protocols import IGNORED, PREFIX, Batch, logit_cap_of

_EXAMPLES = 2  # rows that are shown, tokens of each, characters of a line
_SHOWN = 28
_LINE = 110
_POSITIONS = 4  # targets whose alignment is verified by gradients
_IGNORED_MARK = "-"


def check_labels(check_context: CheckContext) -> list[CheckResult]:
    """Show inputs and targets side by side, and check alignment, ignored positions and special tokens.

    Args:
        check_context: Training set-up to check.

    Returns:
        One result, named `labels`, whose details show two rows as text.
    """
    batches = [check_context.encoded]
    if check_context.mixed_rows:
        batches.append(check_context.encode(check_context.mixed_rows).to(check_context.trainer.device))
    faults = [
        fault
        for fault in (_empty(check_context, batches), _shifted(check_context, batches), _misplaced(check_context))
        if fault
    ]
    faults += _never_learned(check_context, batches)
    ignored = [float((batch.targets == IGNORED).float().mean()) for batch in batches]
    measured = "; ".join(words for words, _ in faults)
    ends = f", {len(check_context.must_learn)} special tokens among the targets" if check_context.must_learn else ""
    return [
        CheckResult(
            "labels",
            "fail" if faults else "ok",
            measured or f"{ignored[0]:.1%} of the positions are ignored, every example has targets{ends}",
            "every prediction is compared with its own target; ends of documents and special tokens are targets",
            "; ".join(remedy for _, remedy in faults),
            tuple(_as_text(check_context, batches[0])),
        )
    ]


def _empty(check_context: CheckContext, batches: list[Batch]) -> tuple[str, str] | None:
    empty = sum(int((batch.targets != IGNORED).sum(1).eq(0).sum()) for batch in batches)
    rows = sum(batch.targets.shape[0] for batch in batches)
    # Masked language modelling: now and then, by chance, no token of a short text is masked.
    if not empty or (not check_context.causal and empty < rows / 2):
        return None
    return f"{empty} of {rows} examples have no target", "drop these examples, or find out what ignores their targets"


def _shifted(check_context: CheckContext, batches: list[Batch]) -> tuple[str, str] | None:
    """Return a problem if targets of a causal objective are not the next inputs, else None."""
    if not check_context.causal:
        return None
    right = total = ahead = 0
    for batch in batches:
        kept = batch.targets != IGNORED
        for distance in (1, 2):
            compared = kept[:, :-distance].clone()
            if batch.document_ids is not None:
                compared &= batch.document_ids[:, distance:] == batch.document_ids[:, :-distance]
            if PREFIX in batch.model_inputs:  # what is predicted there is hidden from the inputs
                compared &= ~batch.model_inputs[PREFIX][:, distance:]
            if distance == 1:
                compared &= ~_begins_anew(check_context, batch)
            same = (batch.targets[:, :-distance] == batch.inputs[:, distance:]) & compared
            if distance == 1:
                right, total = right + int(same.sum()), total + int(compared.sum())
            else:
                ahead += int(same.sum())
    if right == total:
        return None
    told = "; most are the token after the next" if ahead > total / 2 > right else ""
    remedy = "shift the labels only once: either in the objective or in the loss of the model"
    return f"{total - right} of {total} targets are not the next token{told}", remedy


def _begins_anew(check_context: CheckContext, batch: Batch) -> torch.Tensor:
    """Return where a target ends a document and the next input begins another, (rows, positions - 1) of bool.

    Where documents are not told apart, both are in one text, and many tokenizers have two tokens for them.
    """
    tokenizer = check_context.tokenizer
    if tokenizer is None or tokenizer.document_bos == tokenizer.end_of_document:
        return torch.zeros_like(batch.targets[:, :-1], dtype=torch.bool)
    ends = batch.targets[:, :-1] == tokenizer.end_of_document
    return ends & (batch.inputs[:, 1:] == tokenizer.document_bos)


def _misplaced(check_context: CheckContext) -> tuple[str, str] | None:
    """Return a problem if a target is predicted from the features of another position, else None.

    The gradient of a single loss at random features tells which features it uses.
    """
    batch = check_context.encoded
    # Features unlike each other, and a head that is not zero, so that every influence has a gradient.
    shape = *batch.targets.shape, check_context.model.output_projection()[0].shape[1]
    features = fixed_normal(shape, 0).to(batch.targets.device)
    places = (batch.targets != IGNORED).nonzero()[:: max(1, int((batch.targets != IGNORED).sum()) // _POSITIONS)]
    for row, position in places[:_POSITIONS].tolist():
        leaf = features.clone().requires_grad_()
        standing = _Given(check_context.model, leaf)
        loss = check_context.objective.loss(standing, only(batch, row, position))  # pyright: ignore[reportArgumentType]
        loss.sum.backward()
        sources = [] if leaf.grad is None else leaf.grad.abs().sum(-1).nonzero().tolist()
        if sources != [[row, position]]:
            found = ", ".join(str(place[1]) for place in sources[:3]) or "none"
            return (
                f"the target at position {position} is predicted from position {found}",
                "the loss must compare features and targets of the same position; labels are shifted by the objective",
            )
    return None


class _Given:
    """Wraps a model so that it returns given features; a head of zeros is replaced by a random one."""

    def __init__(self, model: Any, features: torch.Tensor) -> None:
        self._model, self._features = model, features
        weight, bias = model.output_projection()
        weight = weight.detach().float()
        if not weight.any():
            weight = fixed_normal(weight.shape, 1, std=0.02).to(weight.device)
        self._projection = weight, None if bias is None else bias.detach().float()
        self.logit_cap = logit_cap_of(model)

    def features(self, batch: Batch, embeddings: torch.Tensor | None = None) -> torch.Tensor:
        return self._features

    def output_projection(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self._projection

    def head(self, features: torch.Tensor) -> torch.Tensor:
        weight, bias = self._projection
        logits = torch.nn.functional.linear(features, weight, bias)[..., : self._model.vocabulary]
        return logits if self.logit_cap is None else self.logit_cap * torch.tanh(logits / self.logit_cap)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def _never_learned(check_context: CheckContext, batches: list[Batch]) -> list[tuple[str, str]]:
    faults = []
    for token in check_context.must_learn:
        if any(bool((batch.targets == token).any()) for batch in batches):
            continue
        name = check_context.decode(token)
        faults.append(
            (
                f"{name} (id {token}) is never a target",
                f"make {name} a target, otherwise the model never ends a text; padding with the same token id must be "
                "recognised by its position and not by the id",
            )
        )
    return faults


def _as_text(check_context: CheckContext, batch: Batch) -> list[str]:
    lines = []
    for row in range(min(_EXAMPLES, batch.inputs.shape[0])):
        start, end = _busy_part(batch, row)
        told = "" if start == 0 else f", from position {start}"
        lines.append(f"example {row + 1}: inputs above targets, {_IGNORED_MARK} is ignored, | starts a text{told}")
        read = read_by(batch, row, slice(start, end))
        if read:
            lines.append(f"  inputs of the encoder: {' '.join(map(check_context.decode, read[:_SHOWN]))}")
        lines += _two_lines(check_context, batch, row, start, end)
    return lines


def _busy_part(batch: Batch, row: int) -> tuple[int, int]:
    """Return the range of positions to show: from a few tokens before the first target on."""
    kept = (batch.targets[row] != IGNORED).nonzero()[:, 0]
    start = max(0, int(kept[0]) - 4) if len(kept) else 0
    return start, min(start + _SHOWN, batch.inputs.shape[1])


def _two_lines(check_context: CheckContext, batch: Batch, row: int, start: int, end: int) -> list[str]:
    begins = {span.start for span in spans(batch, row)}
    lines, above, below = [], "  ", "  "
    for place in range(start, end):
        target = int(batch.targets[row, place])
        read = ("|" if place in begins else "") + check_context.decode(int(batch.inputs[row, place]))
        asked = _IGNORED_MARK if target == IGNORED else check_context.decode(target)
        width = max(len(read), len(asked)) + 1
        if len(above) + width > _LINE:
            lines += [above.rstrip(), below.rstrip()]
            above, below = "  ", "  "
        above, below = above + read.ljust(width), below + asked.ljust(width)
    return [*lines, above.rstrip(), below.rstrip()]
