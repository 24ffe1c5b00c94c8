"""Hardware by name, and what repeated text is worth."""

from __future__ import annotations

import pytest

from lavra.core.errors import InputError
from lavra.planning.budget import effective_tokens, repetition_note, worth
from lavra.planning.machine.hardware import ACCELERATORS, accelerator


@pytest.mark.parametrize(
    ("asked", "name"), [("Colab-T4", "t4"), ("RTX 4090", "rtx-4090"), ("a100", "a100-40gb"), ("NVIDIA H200", "h200")]
)
def test_aliases_are_found_however_they_are_written(asked: str, name: str) -> None:
    assert accelerator(asked).name == name


def test_an_unknown_name_is_told_the_nearest() -> None:
    with pytest.raises(InputError, match="is not known hardware") as error:
        accelerator("a100-40")
    assert "did you mean a100-40g" in error.value.remedy


def test_names_and_aliases_are_distinct_and_figures_are_plausible() -> None:
    names = [alias for entry in ACCELERATORS.values() for alias in (entry.name, *entry.aliases)]
    assert len(names) == len(set(names))
    for entry in ACCELERATORS.values():
        assert 1e12 < entry.peak["fp32"] <= max(entry.peak.values()) < 3e15
        assert 4 << 30 < entry.memory < 256 << 30
        assert entry.source


def test_the_precision_is_the_best_it_has_or_the_asked_one() -> None:
    assert accelerator("t4").precision() == "fp16"
    assert accelerator("a100-80gb").precision() == "bf16"
    assert accelerator("t4").precision("fp32") == "fp32"
    with pytest.raises(InputError, match="t4 does not compute matrix products in bf16"):
        accelerator("t4").precision("bf16")


def test_repetition_is_worth_less_and_less() -> None:
    assert worth(0.5) == 0.5
    assert worth(1.0) == 1.0
    assert 3.6 < worth(4.0) < 4.0
    assert worth(1000.0) == pytest.approx(16.39, abs=0.01)
    assert all(worth(more) > worth(more - 1) for more in range(2, 40))
    assert effective_tokens(400.0, 100.0) == pytest.approx(100.0 * worth(4.0))
    assert effective_tokens(50.0, 100.0) == 50.0


def test_only_many_epochs_are_warned_of() -> None:
    assert repetition_note(4.0) is None
    assert "read 12.0 times" in (repetition_note(12.0) or "")
