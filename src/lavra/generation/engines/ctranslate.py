"""The CTranslate2 engine: greedy decoding, sampling and beam search in C++, in int8 and other types."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lavra.config.generation import GenerateOptions
from lavra.core.errors import InputError
from lavra.core.machine import keeps_freed_memory, usable_cores
from lavra.core.progress import Progress
from lavra.generation.engines.converting import Convertible, conversion_of, token_names
from lavra.generation.engines.engine import Made
from lavra.generation.generate import Generation
from lavra.generation.prompts import Prompt, encode_prompt
from lavra.generation.rows import Reason, TextAssembler, stop_strings

if TYPE_CHECKING:
    from lavra.data.tokenizers.tokenizer import Tokenizer

ROWS_AT_ONCE = 160
"""Number of continuations that one worker decodes together. It is smaller where the allocator returns freed memory to
the system, so that the pages of every step have to be faulted in again."""
ROWS_WITH_FAULTS = 48

_SMALLEST_SHARED = 64 << 20
"""Size of a model in bytes (64 MiB) from which a batch gets more than one thread. Below it, a second thread costs more
than it brings: 163 against 29 ms for 64 tokens of one text with 6 layers of width 256, but 880 against 1,050 ms with
GPT-2 124M."""

_LARGEST_COPIED = 1 << 30
"""Size of a model in bytes (1 GiB) above which only one worker is used, because each holds a copy of the weights."""

_TYPES = {
    "fp32": ("float32",),
    "bf16": ("bfloat16",),
    "fp16": ("float16",),
    "int8": ("int8", "int8_float32", "int8_bfloat16", "int8_float16"),
}
"""Types of CTranslate2 for each precision of ours; the first one that the device supports is taken."""

_LEFT_OUT = {
    "min_p": 0.0,
    "typical_p": 1.0,
    "frequency_penalty": 0.0,
    "beam_groups": 1,
    "contrastive": None,
    "choices": (),
    "words": (),
    "regex": "",
    "json_schema": "",
    "grammar": "",
}
"""Options that the engine does not offer, with their neutral values."""

_OF_TEXT = {"repetition_penalty": 1.0, "no_repeat_ngram": 0}
"""Options, with their neutral values, that the engine applies to the new tokens alone. Ours count the prompt too, so
that they cannot be used where a decoder reads it."""


def compute_type(precision: str, device: str = "cpu") -> str | None:
    """Return the CTranslate2 type for a precision, or None where the device does not support it.

    Args:
        precision: fp32, bf16, fp16 or int8.
        device: "cpu" or "cuda".
    """
    import ctranslate2

    known = ctranslate2.get_supported_compute_types(device)
    return next((name for name in _TYPES.get(precision, ()) if name in known), None)


def why_not(options: GenerateOptions, prompts: Sequence[Prompt], context: int) -> str | None:
    """Return why the engine cannot serve a request, as a clause, or None where it can.

    One reason is a text that outgrows the context of a decoder, because the engine cannot drop its beginning.

    Args:
        options: Options of generation.
        prompts: Prompts as the model reads them.
        context: Largest number of tokens that the model reads.

    Examples:
        >>> why_not(GenerateOptions(min_p=0.1), [], context=128)
        'it has no --min-p'
    """
    asked = [name for name, neutral in _LEFT_OUT.items() if getattr(options, name) != neutral]
    if any(not prompt.source for prompt in prompts):
        asked += [name for name, neutral in _OF_TEXT.items() if getattr(options, name) != neutral]
    if asked:
        return "it has no " + ", ".join("--" + name.replace("_", "-") for name in asked)
    longest = max((len(prompt.ids) for prompt in prompts), default=0)
    if longest + options.max_new_tokens > context:
        return f"a prompt of {longest} tokens and {options.max_new_tokens} new ones outgrow the context of {context}"
    return None


class CTranslate2Engine:
    """Engine that continues prompts with a model converted for CTranslate2.

    Sampling draws from the same distribution as the engine `torch`, but with random numbers of its own. The same seed
    gives the same texts for the same prompts in the same order, and other texts where prompts are added or left out.

    On a CPU several workers decode batches in parallel, each with a thread of its own, because a matrix product for
    some dozens of rows gains little from a second thread (2,025 against 1,120 tokens per second with the shape of
    T5-small on two cores). Which worker gets which batch is fixed, so that the draws are reproducible.

    Args:
        source: Model to use; it is converted where the cache does not hold its conversion.
        precision: Precision of the computation: fp32, bf16, fp16 or int8.
        device: Device that computes: "cpu" or "cuda".
        threads: Number of threads on a CPU; 0 takes one for each core.

    Raises:
        InputError: If the model cannot be converted, or the device does not support the precision.
        LavraError: If the conversion does not compute the same as the model.
    """

    def __init__(self, source: Convertible, precision: str, device: str = "cpu", threads: int = 0) -> None:
        kind = compute_type(precision, device)
        if kind is None:
            import ctranslate2

            known = ", ".join(sorted(ctranslate2.get_supported_compute_types(device)))
            raise InputError(
                f"ctranslate2 cannot compute in {precision} on this {device}; it has {known}",
                "choose another --precision, or --engine torch",
            )
        self.description = f"ctranslate2, {precision}"
        self.context: int = source.model.context
        self.decoder_start_ids: tuple[int, ...] = tuple(getattr(source.model, "decoder_start_ids", ()))
        self.forced: int = getattr(source.model, "forced", 0)
        self._tokenizer: Tokenizer = source.tokenizer
        self._folder: Path = conversion_of(source, "int8" if precision == "int8" else "float32")
        self._models: list[Any] = []
        self._how: dict[str, Any] = {"device": device, "compute_type": kind}
        self._threads = (threads or usable_cores()) if device == "cpu" else 1
        size = sum(file.stat().st_size for file in self._folder.iterdir())
        self._size = size
        self._most_workers = self._threads if size <= _LARGEST_COPIED else 1
        words = source.model.vocabulary
        self._names = token_names(source.tokenizer, words)
        self._unused = self._names[source.tokenizer.vocabulary_size :]

    @property
    def continues(self) -> bool:
        """Whether a text continues its prompt, which is so unless the model is an encoder-decoder."""
        return not self.decoder_start_ids

    def encode(self, prompts: Sequence[str], options: GenerateOptions) -> list[Prompt]:
        """Return the prompts as the model reads them.

        Args:
            prompts: Texts to continue.
            options: Options of generation.

        Raises:
            InputError: If a prompt does not fit the context, or the engine does not offer an option.
        """
        encoded = [encode_prompt(self, self._tokenizer, text, options.long_prompt, options.bos) for text in prompts]  # pyright: ignore[reportArgumentType]
        reason = why_not(options, encoded, self.context)
        if reason is not None:
            raise InputError(f"ctranslate2 cannot do this: {reason}", "use --engine torch, or auto")
        return encoded

    def generate_each(self, prompts: Sequence[str], options: GenerateOptions) -> Made:
        """Yield each generation as soon as its batch is finished; short prompts come first.

        Args:
            prompts: Texts to continue.
            options: Options of generation.

        Yields:
            The number of the prompt and the number of the sample, both counted from 0, with the generation.

        Raises:
            InputError: If a prompt does not fit the context, or the engine does not offer an option.
        """
        encoded = self.encode(prompts, options)
        order = sorted(range(len(prompts)), key=lambda number: encoded[number].size)
        groups = self._groups(order, max(options.samples, options.beams), options.beams > 1)
        with Progress("generating", len(prompts) * options.samples, "texts") as progress:
            for group, made in self._decoded(groups, encoded, options):
                for number, texts in zip(group, made, strict=True):
                    for sample, (ids, score) in enumerate(texts):
                        one = self._generation(prompts[number], sample, encoded[number], ids, score, options)
                        yield (number, sample), one
                        progress.advance()

    def _groups(self, order: list[int], rows: int, beams: bool) -> list[list[int]]:
        """Divide prompts, each of which takes `rows` rows, into batches of nearly equal size, equally many per worker.

        Batches for beam search have a fixed size instead: there the end of the library's search depends on the other
        prompts of a batch, so that the texts would depend on the number of workers.
        """
        at_once = max(1, (ROWS_AT_ONCE if keeps_freed_memory() else ROWS_WITH_FAULTS) // rows)
        if beams:
            return [order[first : first + at_once] for first in range(0, len(order), at_once)]
        workers = self._most_workers
        count = min(len(order), workers * -(-len(order) // (at_once * workers)))
        borders = [len(order) * number // max(1, count) for number in range(count + 1)]
        return [order[first:last] for first, last in pairwise(borders)]

    def _decoded(
        self, groups: list[list[int]], encoded: list[Prompt], options: GenerateOptions
    ) -> Iterator[tuple[list[int], list[list[tuple[list[int], float | None]]]]]:
        """Yield each batch with its texts, in order, while the workers already compute the next batches."""
        models = self._opened(options, min(self._most_workers, len(groups)))
        pools = [ThreadPoolExecutor(1) for _ in models]
        try:
            pending = [
                pools[number % len(models)].submit(
                    self._batch, models[number % len(models)], [encoded[one] for one in group], options
                )
                for number, group in enumerate(groups)
            ]
            for group, made in zip(groups, pending, strict=True):
                yield group, made.result()
        finally:
            for pool in pools:
                pool.shutdown(cancel_futures=True)

    def stream(self, prompt: str, options: GenerateOptions) -> Iterator[str]:
        """Yield the one continuation of a prompt in pieces, each as soon as it is certain.

        Args:
            prompt: Text to continue.
            options: Options of generation, with one sample and without beams.

        Raises:
            InputError: If several samples or beams are asked for, the prompt does not fit the context, or the engine
                does not offer an option.
        """
        if options.samples != 1 or options.beams > 1:
            raise InputError("several samples or beams cannot be streamed", "ask for one, or do not stream")
        (read,) = self.encode([prompt], options)
        if not options.max_new_tokens:
            return
        assembler = TextAssembler(self._tokenizer, read.before, stop_strings(self._tokenizer, options))
        (model,), shared = self._opened(options, 1), self._shared(options)
        names = [self._names[number] for number in read.ids]
        if self.decoder_start_ids:
            steps = model.generate_tokens(
                [self._names[number] for number in read.source],
                names[1:] or None,
                max_decoding_length=options.max_new_tokens + len(names) - 1,
                min_decoding_length=options.min_new_tokens + len(names) - 1,
                max_input_length=0,
                **shared,
            )
        else:
            steps = model.generate_tokens(
                names, max_length=options.max_new_tokens, min_length=options.min_new_tokens, **shared
            )
        for number, step in enumerate(steps):
            if self.decoder_start_ids and number < len(names) - 1:
                continue  # a forced token, which the library returns too
            if step.token_id in self._tokenizer.end_ids:
                break
            piece = assembler.add(step.token_id)
            if piece:
                yield piece
            if assembler.stopped:
                break
        rest = assembler.finish()
        if rest:
            yield rest

    def _opened(self, options: GenerateOptions, workers: int) -> list[Any]:
        """Return the model of each worker, loaded again where texts are sampled.

        The library seeds the random numbers of a thread when the thread first draws, so a new seed needs new threads.
        """
        import ctranslate2

        if len(self._models) != workers or not options.greedy:
            kind = ctranslate2.Translator if self.decoder_start_ids else ctranslate2.Generator
            threads = max(1, self._threads // max(1, workers)) if self._size >= _SMALLEST_SHARED else 1
            how = {**self._how, "intra_threads": threads}
            self._models = []
            for worker in range(workers):
                ctranslate2.set_random_seed(options.seed + worker)
                model = kind(str(self._folder), **how)
                if not options.greedy:
                    self._draw_once(model)
                self._models.append(model)
        return self._models

    def _draw_once(self, model: Any) -> None:
        """Let a worker draw a token, so that its thread takes the seed that is set now."""
        drawing = {"sampling_topk": 2, "beam_size": 1}
        begin = [self._names[self._tokenizer.end_of_document]]
        if self.decoder_start_ids:
            model.translate_batch([begin], max_decoding_length=1, **drawing)
        else:
            model.generate_batch([begin], max_length=1, **drawing)

    def _shared(self, options: GenerateOptions) -> dict[str, Any]:
        sampled = not options.greedy and options.beams == 1
        return {
            "sampling_topk": options.top_k if sampled else 1,
            "sampling_topp": options.top_p if sampled else 1.0,
            "sampling_temperature": options.temperature if sampled else 1.0,
            "repetition_penalty": options.repetition_penalty,
            "no_repeat_ngram_size": options.no_repeat_ngram,
            "end_token": list(self._tokenizer.end_ids),
            "suppress_sequences": [[name] for name in self._unused] or None,
        }

    def _batch(
        self, model: Any, prompts: list[Prompt], options: GenerateOptions
    ) -> list[list[tuple[list[int], float | None]]]:
        """Return the new ids of the samples of each prompt, and their scores where beam search made them."""
        if not options.max_new_tokens:
            return [[([], None)] * options.samples for _ in prompts]
        searched = options.beams > 1
        alike = options.greedy and not searched
        shared = {
            **self._shared(options),
            "beam_size": options.beams,
            "num_hypotheses": 1 if alike else options.samples,
            "length_penalty": options.length_penalty,
            "return_scores": searched,
        }
        names = [[self._names[number] for number in prompt.ids] for prompt in prompts]
        before = len(self.decoder_start_ids[1:])
        if self.decoder_start_ids:
            results = model.translate_batch(
                [[self._names[number] for number in prompt.source] for prompt in prompts],
                [one[1:] for one in names] if before else None,
                max_decoding_length=options.max_new_tokens + before,
                min_decoding_length=options.min_new_tokens + before,
                max_input_length=0,
                **shared,
            )
            made = [[self._ids(tokens)[before:] for tokens in result.hypotheses] for result in results]
        else:
            results = model.generate_batch(
                names,
                max_length=options.max_new_tokens,
                min_length=options.min_new_tokens,
                include_prompt_in_result=False,
                **shared,
            )
            made = [result.sequences_ids for result in results]
        found = []
        for result, texts in zip(results, made, strict=True):
            scores = result.scores if searched else [None] * len(texts)
            pairs = list(zip(texts, scores, strict=True))
            found.append(pairs * options.samples if alike else pairs)
        return found

    def _ids(self, names: Sequence[str]) -> list[int]:
        if not hasattr(self, "_numbers"):
            self._numbers = {name: number for number, name in enumerate(self._names)}
        return [self._numbers[name] for name in names]

    def _generation(
        self,
        text: str,
        sample: int,
        prompt: Prompt,
        ids: Sequence[int],
        score: float | None,
        options: GenerateOptions,
    ) -> Generation:
        """Return a generation, cut where a stop string ends it, with the reason why it ended."""
        assembler = TextAssembler(self._tokenizer, prompt.before, stop_strings(self._tokenizer, options))
        pieces: list[str] = []
        kept: list[int] = []
        for number in ids:
            kept.append(number)
            pieces.append(assembler.add(number))
            if assembler.stopped:
                break
        pieces.append(assembler.finish())
        reason: Reason = "length" if len(ids) == options.max_new_tokens else "end"
        if assembler.stopped:
            reason = "stop"
        return Generation(text, sample, "".join(pieces), tuple(kept), reason, score)
