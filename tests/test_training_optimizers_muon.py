"""Muon: matrices whose singular values are made alike, in three iterations."""

from __future__ import annotations

import math

import pytest
import torch

from lavra.training.optimizers.muon import POLYNOMIALS, Muon, orthogonalized


def drawn(rows: int, columns: int, decay: float) -> torch.Tensor:
    """Return a matrix whose singular values fall geometrically from 1 to `decay`."""
    generator = torch.Generator().manual_seed(rows + columns)
    size = min(rows, columns)
    left, _ = torch.linalg.qr(torch.randn(rows, size, generator=generator))
    right, _ = torch.linalg.qr(torch.randn(columns, size, generator=generator))
    return left @ torch.diag(torch.logspace(0, math.log10(decay), size)) @ right.T


@pytest.mark.parametrize("shape", [(64, 64), (64, 256), (256, 64), (1, 8)])
@pytest.mark.parametrize("decay", [1.0, 0.1])
def test_singular_values_become_alike_whatever_the_size_of_the_gradient(shape: tuple[int, int], decay: float) -> None:
    matrix = drawn(*shape, decay)
    for size in (1e-6, 1.0, 1e4):
        found = orthogonalized(matrix * size)
        values = torch.linalg.svdvals(found.float())
        assert found.shape == matrix.shape
        assert float(values.min()) > 0.75
        assert float(values.max()) < 1.25


def test_the_result_is_near_the_polar_factor_and_nearer_than_five_iterations_of_the_usual_polynomial() -> None:
    from torch.optim._muon import DEFAULT_A, DEFAULT_B, DEFAULT_C, _zeropower_via_newtonschulz

    matrix = torch.randn(96, 384, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    ours = orthogonalized(matrix).float() - left @ right
    usual = _zeropower_via_newtonschulz(matrix, (DEFAULT_A, DEFAULT_B, DEFAULT_C), 5, 1e-7).float() - left @ right
    assert float(ours.norm()) < float(usual.norm())


def test_the_polynomials_bring_their_interval_to_within_16_percent_of_1() -> None:
    values = torch.linspace(0.015, 1.0, 10_000, dtype=torch.float64)
    for a, b, c in POLYNOMIALS:
        values = a * values + b * values**3 + c * values**5
    assert float(values.min()) > 0.84
    assert float(values.max()) < 1.16


def test_zero_rows_stay_zero_and_a_zero_gradient_moves_nothing() -> None:
    matrix = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
    matrix[3] = 0.0
    assert float(orthogonalized(matrix)[3].abs().sum()) == 0.0
    weight = torch.nn.Parameter(torch.ones(8, 32))
    weight.grad = torch.zeros(8, 32)
    Muon([weight], lr=0.1).step()
    assert torch.equal(weight.detach(), torch.ones(8, 32))


def test_an_update_has_the_rate_as_its_spectral_norm_and_decay_is_decoupled() -> None:
    weight = torch.nn.Parameter(torch.zeros(64, 16))
    weight.grad = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    Muon([weight], lr=0.1).step()
    norm = float(torch.linalg.matrix_norm(weight.detach(), ord=2))
    assert norm == pytest.approx(0.1 * math.sqrt(64 / 16), rel=0.25)
    still = torch.nn.Parameter(torch.ones(4, 4))
    still.grad = torch.zeros(4, 4)
    Muon([still], lr=0.1, weight_decay=0.5).step()
    assert torch.allclose(still.detach(), torch.full((4, 4), 0.95))
