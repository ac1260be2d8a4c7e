"""The batched lasso: scikit-learn's solutions, the optimality conditions, and hard cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import sparse_encode
from sklearn.linear_model import Lasso

from preimage.baselines.lasso import nonnegative_lasso

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def problems(atoms: int, length: int, signals: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return correlated atoms and signals of length one."""
    random = np.random.default_rng(seed)
    dictionary = random.standard_normal((atoms, length)) + 0.5 * random.standard_normal(length)
    chosen = random.random((signals, atoms)) * (random.random((signals, atoms)) < 0.2)
    values = chosen @ dictionary + 0.3 * random.standard_normal((signals, length))
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    return torch.from_numpy(dictionary), torch.from_numpy(values / np.linalg.norm(values, axis=1, keepdims=True))


def objective(dictionary: torch.Tensor, signals: torch.Tensor, codes: torch.Tensor, penalty: float) -> torch.Tensor:
    return (signals - codes @ dictionary).square().sum(dim=1) / 2 + penalty * codes.sum(dim=1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("penalty", [0.02, 0.3])
@pytest.mark.parametrize(("atoms", "length"), [(12, 40), (40, 15)], ids=["tall", "overcomplete"])
def test_codes_are_those_of_scikit_learn(atoms: int, length: int, penalty: float, device: str) -> None:
    dictionary, signals = problems(atoms, length, 30, seed=atoms)
    codes = nonnegative_lasso(
        dictionary.to(device), signals.to(device), penalty, tolerance=1e-10, max_iterations=20_000
    ).cpu()
    encoded = sparse_encode(
        signals.numpy(), dictionary.numpy(), algorithm="lasso_cd", alpha=penalty, positive=True, max_iter=20_000
    )
    lasso = Lasso(alpha=penalty / length, fit_intercept=False, positive=True, tol=1e-10, max_iter=100_000)
    exact = lasso.fit(dictionary.numpy().T, signals.numpy().T).coef_
    assert (codes >= 0).all() and (codes > 0).any()
    torch.testing.assert_close(codes, torch.from_numpy(exact), atol=1e-4, rtol=0)
    best = objective(dictionary, signals, torch.from_numpy(encoded), penalty)
    assert (objective(dictionary, signals, codes, penalty) <= best + 1e-9).all()


@pytest.mark.parametrize("tolerance", [1e-1, 1e-3])
def test_the_tolerance_bounds_the_distance_to_the_minimum(tolerance: float) -> None:
    dictionary, signals = problems(60, 40, 50, seed=3)
    penalty = 0.02
    exact = nonnegative_lasso(dictionary, signals, penalty, tolerance=1e-12, max_iterations=50_000)
    codes = nonnegative_lasso(dictionary.float(), signals.float(), penalty, tolerance=tolerance).double()
    excess = objective(dictionary, signals, codes, penalty) - objective(dictionary, signals, exact, penalty)
    assert (excess >= -1e-6).all() and (excess <= tolerance / 2 + 1e-6).all()
    if tolerance > 1e-2:
        assert excess.max() > 1e-5  # it stopped early


@pytest.mark.parametrize("tolerance", [1e-1, 1e-2, 1e-12])
def test_signals_are_coded_independently_of_each_other(tolerance: float) -> None:
    dictionary, signals = problems(60, 40, 10, seed=5)
    together = nonnegative_lasso(dictionary, signals, 0.05, tolerance=tolerance, max_iterations=20_000)
    single = [
        nonnegative_lasso(dictionary, signal, 0.05, tolerance=tolerance, max_iterations=20_000)
        for signal in signals.split(1)
    ]
    torch.testing.assert_close(together, torch.cat(single), atol=1e-9, rtol=0)


def test_zero_signals_and_large_penalties_give_zero_codes() -> None:
    dictionary, signals = problems(20, 30, 4, seed=6)
    assert not nonnegative_lasso(dictionary, torch.zeros_like(signals), 0.02).any()
    largest = (signals @ dictionary.T).max().item()
    assert not nonnegative_lasso(dictionary, signals, 1.001 * largest).any()
    assert nonnegative_lasso(dictionary, signals, 0.99 * largest, tolerance=1e-9).any()
    assert not nonnegative_lasso(torch.zeros_like(dictionary), signals, 0.02).any()


def test_wrong_shapes_and_penalties_are_errors() -> None:
    with pytest.raises(ValueError, match=r"\(3, 4\).*\(2, 5\)"):
        nonnegative_lasso(torch.ones(3, 4), torch.ones(2, 5), 0.1)
    for penalty in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"penalty.*{penalty}"):
            nonnegative_lasso(torch.ones(3, 4), torch.ones(2, 4), penalty)
