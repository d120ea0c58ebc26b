"""How far a right answer may lie from the truth: from its dtype and its number of operations.

The model is the textbook's (Higham, "Accuracy and Stability of Numerical Algorithms", chapter 3):
a sum of n products, in any order, errs by at most about n·u·Σ|terms|, u being the unit roundoff of
the dtype that is summed in; rounding the sum to the result's dtype errs by u·|sum| more. No array's
size enters, only how many terms one entry sums.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Roundings of one entry that are not terms of a sum: products, conversions, a fused multiply-add.
ROUNDINGS = 4


def unit_roundoff(dtype: Any) -> float:
    """The largest relative error of one rounding to the dtype."""
    return float(jnp.finfo(dtype).eps) / 2


def summed_in(dtype: Any) -> Any:
    """The dtype that sums of this dtype run in: float32 at least, as every rule promises."""
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32


def bound(truth: Any, dtype: Any, *, terms: int = 1, magnitude: Any = None) -> np.ndarray:
    """The largest error allowed in each entry of a result of this dtype.

    `terms` is how many terms an entry sums (or operations it takes); `magnitude` is the sum of
    their absolute values, entry by entry, or the largest entry of the truth where it is not known.
    """
    truth = np.asarray(truth, np.float64)
    if magnitude is None:
        finite = np.abs(truth[np.isfinite(truth)])
        magnitude = finite.max(initial=0.0)
    rounding = unit_roundoff(dtype) * np.abs(truth)
    summing = (terms + ROUNDINGS) * unit_roundoff(summed_in(dtype)) * np.asarray(magnitude)
    subnormal = float(jnp.finfo(dtype).tiny)  # flushed to zero or not, as the device likes
    return 1.01 * (rounding + summing) + subnormal  # 1.01: the terms of second order in u


def assert_close(
    actual: Any,
    truth: Any,
    *,
    terms: int = 1,
    magnitude: Any = None,
    dtype: Any = None,
    what: str = "result",
) -> None:
    """Raise unless the result is as close to the truth as its dtype allows, entry by entry.

    `dtype` is the dtype that limits both sides, the result's own where it is not given.
    """
    dtype = jnp.asarray(actual).dtype if dtype is None else dtype
    actual, truth = np.asarray(actual, np.float64), np.asarray(truth, np.float64)
    assert actual.shape == truth.shape, f"{what}: shape {actual.shape}, not {truth.shape}"
    special = ~np.isfinite(truth) | ~np.isfinite(actual)
    np.testing.assert_array_equal(
        np.where(special, actual, 0), np.where(special, truth, 0), f"{what}: NaN and inf"
    )
    with np.errstate(invalid="ignore"):
        error = np.where(special, 0, np.abs(actual - truth))
        allowed = np.where(special, 0, bound(truth, dtype, terms=terms, magnitude=magnitude))
    if (error <= allowed).all():
        return
    at = np.unravel_index(np.argmax(error - allowed), error.shape)
    raise AssertionError(
        f"{what}: {np.sum(error > allowed)} of {error.size} entries are too far from the truth; "
        f"at {tuple(map(int, at))} {actual[at]} is not {truth[at]}: "
        f"error {error[at]:.3g}, allowed {allowed[at]:.3g}"
    )


def assert_trees_close(actual: Any, truth: Any, *, terms: int = 1, dtype: Any = None) -> None:
    """Raise unless two pytrees have one structure and leaves as close as their dtypes allow."""
    ours, theirs = jax.tree.structure(actual), jax.tree.structure(truth)
    assert ours == theirs, f"structure {ours}, not {theirs}"
    for (path, leaf), right in zip(
        jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(truth), strict=True
    ):
        name = jax.tree_util.keystr(path) or "result"
        assert_close(leaf, right, terms=terms, dtype=dtype, what=name)


def assert_no_worse(actual: Any, autodiff: Any, truth: Any, *, what: str = "result") -> None:
    """Raise unless the result errs at most twice as much as autodiff does in the same dtype.

    One unit in the last place of the largest entry is allowed in any case: autodiff may be exact by
    chance.
    """
    dtype = jnp.asarray(actual).dtype
    truth = np.asarray(truth, np.float64)
    ours = np.abs(np.asarray(actual, np.float64) - truth).max(initial=0.0)
    theirs = np.abs(np.asarray(autodiff, np.float64) - truth).max(initial=0.0)
    last_place = 2 * unit_roundoff(dtype) * np.abs(truth).max(initial=0.0)
    assert ours <= max(2 * theirs, last_place), (  # false for NaN as well
        f"{what} in {dtype}: error {ours:.3g}, autodiff's {theirs:.3g}, "
        f"one unit in the last place {last_place:.3g}"
    )
