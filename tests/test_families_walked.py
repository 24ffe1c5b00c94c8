"""Every class of `transformers` that predicts tokens is walked through, or named with the reason why it is not."""

from __future__ import annotations

from typing import Any

import pytest

from family_walk import DECODERS, ENCODER_DECODERS, ENCODERS, FURTHER, OTHERS, RECURRENT, REFUSED, UNWALKED

WALKED = {
    "decoder": (*DECODERS, *RECURRENT, *OTHERS, *FURTHER),
    "encoder": ENCODERS,
    "encoder-decoder": ENCODER_DECODERS,
}


def offered(kind: str) -> set[str]:
    """Return the families for which the library has a class of a kind."""
    from transformers.models.auto import modeling_auto as auto

    names: dict[str, Any] = {
        "decoder": auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        "encoder": auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        "encoder-decoder": auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    }
    return set(names[kind])


@pytest.mark.parametrize("kind", WALKED)
def test_each_family_is_in_one_list_and_no_other_is(kind: str) -> None:
    listed = [*WALKED[kind], *REFUSED[kind], *UNWALKED[kind]]
    assert len(listed) == len(set(listed))
    assert set(listed) == offered(kind)
    assert all(UNWALKED[kind].values())
