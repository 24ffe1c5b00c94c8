"""Beam search, and diverse beam search (Vijayakumar et al. 2016, arXiv 1610.02424), for many prompts at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from lavra.config.generation import GenerateOptions
from lavra.generation.prompts import Prompt
from lavra.generation.reader import Reader
from lavra.generation.rows import Reason, Row, stop_strings
from lavra.generation.scores import Scores
from lavra.models.protocols import CachedModel

if TYPE_CHECKING:
    from lavra.data.tokenizers.tokenizer import Tokenizer
    from lavra.generation.constraints import Constraint


@dataclass(slots=True)
class Hypothesis(Row):
    """One way to continue a prompt.

    Attributes:
        score: Sum of the log-probabilities of the new tokens in nats, that of the end token included, minus the
            diversity penalties. For a finished hypothesis it is divided by (number of these tokens) ** length_penalty.
        reason: Why the hypothesis ended; None while it grows.
        parent: Number of the row that it was made from, among all rows of the last step.
    """

    score: float = 0.0
    reason: Reason | None = None
    parent: int = 0


@dataclass(slots=True)
class _Group:
    """Beams that compete only with each other."""

    width: int
    running: list[Hypothesis]
    finished: list[Hypothesis] = field(default_factory=list)

    def settle(self, length_penalty: float, made: int) -> None:
        """Keep the best finished hypotheses, and stop the group where no running one could be among them.

        A running hypothesis is compared at its present length, as transformers does by default. That is exact with a
        length penalty of 0, where scores can only fall. Above 0 it is a heuristic: the mean of a longer text may rise.
        """
        self.finished = sorted(self.finished, key=lambda one: -one.score)[: self.width]
        full = len(self.finished) == self.width
        if full and self.running and self.running[0].score / made**length_penalty <= self.finished[-1].score:
            self.running = []


def _start(prompt: Prompt) -> Hypothesis:
    return Hypothesis(list(prompt.ids), len(prompt.ids), **prompt.as_row)


class BeamSearch:
    """Beam search for the likeliest continuations of prompts.

    Each step considers the best `2 * width` ways to extend the beams of a group. Those that end, and are among the best
    `width`, are finished; the best `width` of the others go on. Twice the width leaves enough of them, because each of
    the `width` beams can end with the end token only once; each further end token adds another width. A group is done
    when it holds `width` finished hypotheses and no running one has a better score than the worst of them. With several
    groups (diverse beam search), each step extends the groups in turn, and the score of a token is lowered by
    `diversity_penalty` for each beam of the earlier groups that has just taken it.

    Args:
        model: Model with a key-value cache.
        tokenizer: Tokenizer of the model.
        prompts: Prompts as the model reads them.
        options: Options of generation: `beams`, `beam_groups`, `diversity_penalty`, `length_penalty`, the lengths and
            the penalties.
        constraint: Constraint on the texts; None allows any text.
    """

    def __init__(
        self,
        model: CachedModel,
        tokenizer: Tokenizer,
        prompts: Sequence[Prompt],
        options: GenerateOptions,
        constraint: Constraint | None = None,
    ) -> None:
        self._model, self._tokenizer, self._options = model, tokenizer, options
        self._reader = Reader(model)
        self._scores = Scores(tokenizer, options, constraint)
        self._stop = stop_strings(tokenizer, options)
        self._reach = 1 + len(tokenizer.end_ids)
        width = options.beams // options.beam_groups
        self._forced = prompts[0].forced if prompts else 0
        self._searches = [[_Group(width, [_start(prompt)]) for _ in range(options.beam_groups)] for prompt in prompts]

    @torch.no_grad()
    def run(self) -> list[list[Hypothesis]]:
        """Return the finished hypotheses of each prompt, at least one and at most `beams`, the best first."""
        if not self._options.max_new_tokens:
            return [groups[0].running for groups in self._searches]
        made = 0
        while made < self._options.max_new_tokens and any(self._rows()):
            made += 1
            self._advance(made)
        found = [[one for group in groups for one in group.finished] for groups in self._searches]
        return [sorted(hypotheses, key=lambda one: -one.score) for hypotheses in found]

    def _rows(self) -> list[Hypothesis]:
        return [one for groups in self._searches for group in groups for one in group.running]

    def _advance(self, made: int) -> None:
        """Extend every running hypothesis by one token."""
        rows = self._rows()
        scores, tokens = self._best(rows)
        first = 0
        for groups in self._searches:
            taken: list[int] = []
            for group in groups:
                here = range(first, first + len(group.running))
                first += len(group.running)
                candidates = self._candidates(rows, here, scores, tokens, taken)
                self._divide(group, rows, candidates[: self._reach * group.width])
                taken += [one.ids[-1] for one in group.running]
                group.settle(self._options.length_penalty, made + self._forced)
        growing = self._rows()
        if growing:
            self._reader.select([one.parent for one in growing])

    def _best(self, rows: list[Hypothesis]) -> tuple[list[list[float]], list[list[int]]]:
        """Return the log-probabilities and the ids of the best tokens of each row, the best first.

        Their number is as small as the search allows: twice the width of a group (more with several end tokens), and
        more where other groups may have taken, and thereby lowered, some of them.
        """
        logits = self._model.head(self._reader.next_features(rows, self._options.max_new_tokens - rows[0].made))
        allowed = self._scores.restrict(logits, rows)
        log = self._scores.discourage(allowed.log_softmax(-1), rows)
        groups = self._options.beam_groups
        wanted = self._reach * (self._options.beams // groups) + (self._options.beams if groups > 1 else 0)
        best = log.topk(min(wanted, log.shape[-1]), -1)
        return best.values.tolist(), best.indices.tolist()

    def _candidates(
        self,
        rows: list[Hypothesis],
        here: range,
        scores: list[list[float]],
        tokens: list[list[int]],
        taken: list[int],
    ) -> list[tuple[float, int, int]]:
        """Return (score, row, token) of each way to extend the rows `here`, the best first."""
        penalty = self._options.diversity_penalty
        candidates = [
            (rows[row].score + score - (penalty * taken.count(token) if taken else 0.0), row, token)
            for row in here
            for score, token in zip(scores[row], tokens[row], strict=True)
            if score > float("-inf")
        ]
        return sorted(candidates, key=lambda one: -one[0])

    def _divide(self, group: _Group, rows: list[Hypothesis], candidates: list[tuple[float, int, int]]) -> None:
        """Divide the candidates into hypotheses that go on and hypotheses that are finished."""
        group.running = []
        for rank, (score, source, token) in enumerate(candidates):
            one = self._grown(rows[source], score, source, token)
            if one.reason is None:
                if len(group.running) < group.width:
                    group.running.append(one)
            elif rank < group.width:
                one.score /= (rows[source].made + 1 + self._forced) ** self._options.length_penalty
                group.finished.append(one)

    def _grown(self, row: Hypothesis, score: float, source: int, token: int) -> Hypothesis:
        if token in self._tokenizer.end_ids:
            return replace(row, score=score, reason="end", parent=source)
        one = replace(row, ids=[*row.ids, token], score=score, reason=None, parent=source)
        if self._stop:
            text = self._tokenizer.decode(one.new)
            one.reason = "stop" if any(stop in text for stop in self._stop) else None
        if one.reason is None and one.made == self._options.max_new_tokens:
            one.reason = "length"
        return one
