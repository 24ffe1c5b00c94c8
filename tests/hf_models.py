"""Tiny random models of `transformers`, one for each way of attending, placing and heading, and batches for them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from lavra.models.hf.kinds import Kind
from lavra.models.hf.model import HFModel
from lavra.models.protocols import IGNORED, Batch

VOCABULARY = 64
PAD = 0
"""Ids below `FIRST` are special in one family or another."""
START = 1
END = 2
FIRST = 6

_IDS = {"pad_token_id": PAD, "bos_token_id": START, "eos_token_id": END}
_BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
_BART = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "decoder_start_token_id": END,
}
_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": PAD}
_LLAMA = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
_CAPPED = {"head_dim": 8, "query_pre_attn_scalar": 8, "final_logit_softcapping": 2.0}
_DEBERTA = {
    "relative_attention": True,
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
}
_GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}

FAMILIES: dict[str, tuple[Kind, str, dict[str, Any]]] = {
    "gpt2": ("decoder", "GPT2LMHeadModel", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "opt": ("decoder", "OPTForCausalLM", {**_BERT, "ffn_dim": 48, "word_embed_proj_dim": 16}),
    "bloom": ("decoder", "BloomForCausalLM", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "llama": ("decoder", "LlamaForCausalLM", {**_LLAMA, "tie_word_embeddings": False}),
    "mistral": ("decoder", "MistralForCausalLM", {**_LLAMA, "sliding_window": 3}),
    "granite": ("decoder", "GraniteForCausalLM", {**_LLAMA, "logits_scaling": 4.0, "embedding_multiplier": 3.0}),
    "gemma2": ("decoder", "Gemma2ForCausalLM", {**_LLAMA, **_CAPPED}),
    "t5": ("encoder-decoder", "T5ForConditionalGeneration", _T5),
    "t5-gated": ("encoder-decoder", "T5ForConditionalGeneration", {**_T5, **_GATED}),
    "bart": ("encoder-decoder", "BartForConditionalGeneration", _BART),
    "mbart": ("encoder-decoder", "MBartForConditionalGeneration", {**_BART, "scale_embedding": True}),
    "bert": ("encoder", "BertForMaskedLM", _BERT),
    "roberta": ("encoder", "RobertaForMaskedLM", {**_BERT, "type_vocab_size": 1, "pad_token_id": 1}),
    "deberta-v2": ("encoder", "DebertaV2ForMaskedLM", {**_BERT, **_DEBERTA}),
    "modernbert": (
        "encoder",
        "ModernBertForMaskedLM",
        {**_BERT, "num_hidden_layers": 3, "local_attention": 4, "cls_token_id": START, "sep_token_id": END},
    ),
}
"""Kind, class and configuration by a name of our own."""


def plain_model(name: str, seed: int = 0, noise: float = 0.08, **fields: Any) -> Any:
    """Return a family's float32 model in evaluation mode, with weights large enough that each of them matters."""
    import transformers

    _, architecture, options = FAMILIES[name]
    cls = getattr(transformers, architecture)
    torch.manual_seed(seed)
    model = cls(cls.config_class(**{"vocab_size": VOCABULARY, **_IDS, **options, **fields}))
    generator = torch.Generator().manual_seed(seed)
    if name == "t5-gated":  # its files hold two matrices, which transformers does not tie then
        model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(model.shared.weight))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn(parameter.shape, generator=generator) * noise
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.normal_(std=0.1, generator=generator)
    return model.eval()


def hf_model(name: str, seed: int = 0, **fields: Any) -> HFModel:
    """Return a family's model behind the contract, not shared with anyone."""
    return HFModel(plain_model(name, seed, **fields), FAMILIES[name][0])


@cache
def shared_model(name: str) -> HFModel:
    """Return a family's model, for tests that leave it as it is."""
    return hf_model(name)


Document = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]
"""(n,) inputs and targets, and (m,) encoder inputs for encoder-decoders."""


def documents(model: HFModel, lengths: Sequence[int] = (9, 4, 7), seed: int = 3) -> list[Document]:
    """Return random documents, with targets at most of their positions."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(length: int) -> torch.Tensor:
        return torch.randint(FIRST, VOCABULARY, (length,), generator=generator)

    found: list[Document] = []
    for number, length in enumerate(lengths):
        inputs, targets = drawn(length), drawn(length)
        targets[torch.rand(length, generator=generator) < 0.3] = IGNORED
        crossed = model.kind == "encoder-decoder"
        found.append((inputs, targets, drawn(11 - 2 * number) if crossed else None))
    return found


def alone(document: Document) -> Batch:
    """Return one document as a batch, without segments."""
    inputs, targets, source = document
    extra = {} if source is None else {"encoder_inputs": source[None]}
    return Batch(inputs[None], targets[None], weight=float((targets != IGNORED).sum()), model_inputs=extra)


def padded(given: Sequence[Document], side: str, noise: int = FIRST) -> Batch:
    """Return documents as rows, padded with `noise` on the left or right to two more than the longest."""
    inputs, targets, sources = zip(*given, strict=True)
    rows = [_rows(inputs, side, noise), _rows(targets, side, IGNORED)[0]]
    extra = {}
    if sources[0] is not None:
        extra = dict(zip(_NAMES, _rows(sources, side, noise), strict=True))
    (ids, document_ids, positions), wanted = rows
    return Batch(ids, wanted, document_ids, positions, weight=float((wanted != IGNORED).sum()), model_inputs=extra)


_NAMES = ("encoder_inputs", "encoder_document_ids", "encoder_positions")


def _rows(parts: Sequence[torch.Tensor], side: str, fill: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    length = max(map(len, parts)) + 2
    ids = torch.full((len(parts), length), fill)
    document_ids, positions = torch.full((len(parts), length), -1, dtype=torch.int32), torch.zeros_like(ids)
    for row, part in enumerate(parts):
        here = slice(length - len(part), length) if side == "left" else slice(0, len(part))
        ids[row, here], document_ids[row, here], positions[row, here] = part, 0, torch.arange(len(part))
    return ids, document_ids, positions


def packed(given: Sequence[Document], noise: int = FIRST) -> Batch:
    """Return documents beside each other in one row, with padding at its end."""
    inputs, targets, sources = zip(*given, strict=True)
    ids, document_ids, positions = _row(inputs, noise)
    wanted = _row(targets, IGNORED)[0]
    extra = {} if sources[0] is None else dict(zip(_NAMES, _row(sources, noise), strict=True))
    return Batch(ids, wanted, document_ids, positions, weight=float((wanted != IGNORED).sum()), model_inputs=extra)


def _row(parts: Sequence[torch.Tensor], fill: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    ids = torch.cat([*parts, torch.full((3,), fill)])
    document_ids = torch.cat(
        [*(torch.full((len(part),), number) for number, part in enumerate(parts)), torch.full((3,), -1)]
    )
    positions = torch.cat([*(torch.arange(len(part)) for part in parts), torch.zeros(3, dtype=torch.int64)])
    return ids[None], document_ids.int()[None], positions[None]


def plain_logits(model: HFModel, document: Document) -> torch.Tensor:
    """Return (n, vocabulary) logits that the model of `transformers` computes for one document by itself."""
    inputs, _, source = document
    if source is None:
        return model.inner(input_ids=inputs[None]).logits[0]
    return model.inner(input_ids=source[None], decoder_input_ids=inputs[None]).logits[0]
