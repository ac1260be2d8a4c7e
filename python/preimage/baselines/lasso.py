"""Solve many lasso problems with one dictionary at once, on any device."""

from __future__ import annotations

import torch

CHECK_EVERY = 10  # iterations between tests of the duality gap


@torch.no_grad()
def nonnegative_lasso(
    dictionary: torch.Tensor,
    signals: torch.Tensor,
    penalty: float,
    *,
    tolerance: float = 1e-3,
    max_iterations: int = 500,
) -> torch.Tensor:
    """Return the non-negative codes a that minimize ‖x − aD‖²/2 + penalty · Σa for every signal x.

    All problems are solved together by FISTA (Beck and Teboulle, 2009) with one step length, the inverse of the largest
    eigenvalue of DDᵀ. The momentum of a problem restarts when it points uphill (O'Donoghue and Candès, 2015). A problem
    ends when its duality gap is at most `tolerance` · ‖x‖²/2, as in scikit-learn's ``Lasso``; the others go on without
    it, so that codes do not depend on the other signals.

    Args:
        dictionary: D, (K, D) floating point, one atom in a row.
        signals: (N, D), of the same dtype and device.
        penalty: Weight of the sum of the codes, above 0. scikit-learn's ``sparse_encode(..., alpha=penalty)``
            minimizes the same objective.
        tolerance: Largest relative duality gap.
        max_iterations: Maximum number of iterations.

    Returns:
        (N, K).

    Raises:
        ValueError: Shapes that do not fit together, or a penalty that is not above 0.
    """
    if dictionary.dim() != 2 or signals.dim() != 2 or signals.shape[1] != dictionary.shape[1]:
        raise ValueError(
            f"dictionary and signals must be (K, D) and (N, D), got {tuple(dictionary.shape)} and "
            f"{tuple(signals.shape)}"
        )
    if not penalty > 0:
        raise ValueError(f"penalty must be above 0, got {penalty}")
    gram = dictionary @ dictionary.T  # [K, K]
    correlations = signals @ dictionary.T  # [N, K]
    squares = signals.square().sum(dim=1)  # [N]
    step = 1 / torch.linalg.eigvalsh(gram.double())[-1].clamp_min(torch.finfo(gram.dtype).tiny).item()
    # y - step * (y G - c + penalty) = y (I - step * G) + step * (c - penalty): one product for each iteration.
    matrix = torch.eye(len(gram), dtype=gram.dtype, device=gram.device) - step * gram
    offset = step * (correlations - penalty)
    solved = torch.zeros_like(correlations)
    rows = torch.arange(len(signals), device=signals.device)  # of the problems that have not ended
    codes = point = solved
    momentum = torch.ones_like(squares)[:, None]
    for iteration in range(1, max_iterations + 1):
        new = torch.addmm(offset, point, matrix).clamp_min_(0)
        change = new - codes
        uphill = ((point - new) * change).sum(dim=1, keepdim=True) > 0
        following = (1 + (1 + 4 * momentum.square()).sqrt()) / 2
        point = torch.addcmul(new, torch.where(uphill, 0, (momentum - 1) / following), change)
        momentum = torch.where(uphill, 1, following)
        codes = new
        if iteration % CHECK_EVERY == 0:
            going = _duality_gap(codes, gram, correlations, squares, penalty) > tolerance * squares / 2
            if not bool(going.all()):
                solved[rows] = codes
                rows, codes, point, momentum, offset, correlations, squares = (
                    values[going] for values in (rows, codes, point, momentum, offset, correlations, squares)
                )
                if not len(rows):
                    return solved
    solved[rows] = codes
    return solved


def _duality_gap(
    codes: torch.Tensor,  # [N, K]
    gram: torch.Tensor,  # [K, K]
    correlations: torch.Tensor,  # [N, K]
    squares: torch.Tensor,  # [N]
    penalty: float,
) -> torch.Tensor:  # [N]
    """Return the difference of the objective and its dual at the residual, scaled so that it is feasible."""
    approximation = codes @ gram
    fitted = (correlations * codes).sum(dim=1)
    residual = squares - 2 * fitted + (approximation * codes).sum(dim=1)  # ‖x − aD‖²
    steepest = (correlations - approximation).amax(dim=1)
    scale = penalty / steepest.clamp_min(penalty)
    primal = residual / 2 + penalty * codes.sum(dim=1)
    dual = scale * (squares - fitted) - scale.square() * residual / 2
    return primal - dual
