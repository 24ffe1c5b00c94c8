"""Warm start of an encoder-decoder from a pretrained encoder, whose weights also initialise the decoder (BERT2BERT).

See Rothe, Narayan and Severyn 2020, "Leveraging Pre-trained Checkpoints for Sequence Generation Tasks"
(arXiv 1907.12461). There only the cross-attention and the layer before the head begin with random weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lavra.core.disk.building import building_folder
from lavra.core.disk.files import read_json, write_json
from lavra.core.errors import InputError
from lavra.models.families.companions import copy_tokenizer
from lavra.models.hf.kinds import quietly

_TOKENIZER_CONFIG = "tokenizer_config.json"


def make_encoder_decoder(
    encoder: Path, out: Path, *, decoder_layers: int = 3, seed: int = 0, force: bool = False
) -> None:
    """Write a Hugging Face folder with an encoder-decoder that is made of a pretrained encoder.

    The decoder takes evenly spaced layers of the encoder, the last one among them. Its cross-attention begins as a copy
    of the self-attention of the same layer, so that from the first it attends to source tokens that are like its own.

    Args:
        encoder: Folder with a BERT-like encoder and its tokenizer.
        out: Folder to make.
        decoder_layers: Number of layers of the decoder. Few suffice for short texts, and every token written costs
            them.
        seed: Seed of the weights that begin at random.
        force: Whether to replace a folder that exists.

    Raises:
        InputError: If `transformers` has no decoder for this encoder, or its tokenizer has no tokens for the beginning
            and the end of a text.
    """
    from transformers import EncoderDecoderModel

    with quietly(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model: Any = EncoderDecoderModel.from_encoder_decoder_pretrained(
                str(encoder),
                str(encoder),
                encoder_local_files_only=True,
                decoder_local_files_only=True,
                encoder_trust_remote_code=False,
                decoder_trust_remote_code=False,
            )
            layers = model.decoder.base_model.encoder.layer
        except (ValueError, OSError, AttributeError, KeyError) as error:
            raise InputError(
                f"no encoder-decoder can be made of {encoder}: {error}",
                "give a BERT-like encoder, or an encoder-decoder",
            ) from error
        _thin_out(model, layers, decoder_layers)
    begin, end, padding = _marks(encoder)
    for config in (model.config, model.generation_config):
        config.decoder_start_token_id, config.eos_token_id, config.pad_token_id = begin, end, padding
    model.config.vocab_size = model.decoder.config.vocab_size
    with building_folder(out, force=force, inputs=[encoder], kind="model") as building, quietly():
        model.save_pretrained(building)
        copy_tokenizer(encoder, building)
        _name_marks(building)


def _thin_out(model: Any, layers: nn.ModuleList, wanted: int) -> None:
    """Keep some layers of the decoder, and begin their cross-attention with the weights of their self-attention."""
    count = len(layers)
    wanted = min(wanted, count)
    kept = [count - 1 - (number * count) // wanted for number in reversed(range(wanted))]
    for number in kept:
        layer: Any = layers[number]
        layer.crossattention.load_state_dict(layer.attention.state_dict(), strict=False)
    model.decoder.base_model.encoder.layer = nn.ModuleList([layers[number] for number in kept])
    model.decoder.config.num_hidden_layers = model.config.decoder.num_hidden_layers = wanted


def _marks(folder: Path) -> tuple[int, int, int]:
    """Return the ids of the tokens that begin and end a text, and of the padding token."""
    vocabulary = {}
    if (folder / "tokenizer.json").is_file():
        content = read_json(folder / "tokenizer.json")
        vocabulary = {token["content"]: token["id"] for token in content.get("added_tokens", [])}
    for names in (("[CLS]", "[SEP]", "[PAD]"), ("<s>", "</s>", "<pad>")):
        if all(name in vocabulary for name in names):
            return vocabulary[names[0]], vocabulary[names[1]], vocabulary[names[2]]
    raise InputError(
        f"the tokenizer in {folder} has no marks for the begin and the end of a text",
        "give an encoder with tokenizer.json",
    )


def _name_marks(folder: Path) -> None:
    """Write the tokens that begin and end a text into the tokenizer's configuration, where encoders have none."""
    path = folder / _TOKENIZER_CONFIG
    config = json.loads(path.read_text(encoding="utf8")) if path.is_file() else {}
    begin = config.get("bos_token") or config.get("cls_token", "[CLS]")
    end = config.get("eos_token") or config.get("sep_token", "[SEP]")
    write_json(path, {**config, "bos_token": begin, "eos_token": end})
