"""Right rules whose answers differ from the truth's by what is no mistake."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbp.verify import check_vjp
from tests.verify.rules import normal, rule

SIDE = 5


def log_determinant():
    """Keeps only what it promises: a positive definite matrix, one triangle of which is read."""

    def forward(a):
        return jnp.linalg.slogdet(a)[1]

    def bwd(residuals, dy):
        factor = jax.scipy.linalg.cho_factor(residuals[0], lower=True)
        return (dy * jax.scipy.linalg.cho_solve(factor, jnp.eye(SIDE, dtype=dy.dtype)),)

    b = normal(SIDE, SIDE)
    return rule(forward, bwd), b @ b.T + 0.05 * jnp.eye(SIDE)


def fourier_by_matrices():
    """The imaginary part at half the rate is zero to autodiff and a sine of π, 1e-16, here."""
    angles = np.outer(np.arange(8), np.arange(5)) * 2 * np.pi / 8

    def forward(x):
        spectrum = jnp.fft.rfft(x)
        return jnp.stack([spectrum.real, spectrum.imag])

    def bwd(_, dy):
        cosine, sine = (jnp.asarray(f(angles), dy.dtype) for f in (np.cos, np.sin))
        return (cosine @ dy[0] - sine @ dy[1],)

    return rule(forward, bwd), normal(8)


def float32_softmax():
    """Runs in float32 alone, and cancels where it is saturated."""

    def forward(x):
        if x.dtype != jnp.float32:
            raise TypeError("float32 only")
        return jax.nn.softmax(x)

    def bwd(y, dy):
        return (y * (dy - (dy * y).sum(-1, keepdims=True)),)

    return rule(forward, bwd, lambda x: (forward(x),) * 2), 20 * normal(6, 8)


@pytest.mark.parametrize("make", [log_determinant, fourier_by_matrices])
def test_is_not_refused(make):
    fn, x = make()
    report = check_vjp(fn, x)
    assert report.ok, str(report)


@pytest.mark.parametrize("reference", [None, jax.nn.softmax])
@pytest.mark.parametrize("seed", range(2))
def test_saturated_in_float32_alone_is_not_refused(reference, seed):
    fn, x = float32_softmax()
    report = check_vjp(fn, x, reference=reference, seed=seed)
    assert report.ok, str(report)


def test_straight_through_is_right_beside_a_reference_that_stops_the_gradient():
    straight = rule(lambda x: jnp.round(x), lambda _, dy: (dy,), lambda x: (jnp.round(x), None))
    x = 3 * normal(6)
    assert not check_vjp(straight, x).ok  # it is not the gradient of what it computes
    report = check_vjp(straight, x, reference=lambda x: x + jax.lax.stop_gradient(jnp.round(x) - x))
    assert report.ok, str(report)
    row = next(c for c in report.checks if c.name == "finite-differences")
    assert row.ok is None
    assert "the reference stops a gradient on purpose" in row.detail


def test_what_the_backend_cannot_run_is_undecided():
    def product(x, w):
        return jnp.dot(
            x.astype(jnp.bfloat16), w.astype(jnp.bfloat16), preferred_element_type=jnp.float32
        ).astype(x.dtype)

    fn = rule(product, lambda kept, dy: (product(dy, kept[1].T), product(kept[0].T, dy)))
    report = check_vjp(fn, normal(8, 16), normal(16, 4))
    assert report.ok, str(report)
    undecided = [c.detail for c in report.checks if c.ok is None]
    assert any("this backend cannot run" in detail for detail in undecided)


@pytest.mark.parametrize("size", [1.0, 1e-30])
@pytest.mark.parametrize(
    ("step", "slope"),
    [
        (lambda x: 0.5 * jnp.tanh(x), lambda x: 0.5 / jnp.cosh(x) ** 2),
        (lambda x: x / 2, lambda _: 0.5),
    ],
    ids=["tanh", "linear"],
)
def test_the_start_of_a_converged_iteration_may_have_no_cotangent(step, slope, size):
    def solve(p, start):
        return jax.lax.fori_loop(0, 200, lambda _, x: step(x) + p, start)

    def forward(p, start):
        return size * solve(p, start)

    def fwd(p, start):
        x = solve(p, start)
        return size * x, x

    def bwd(x, dy):
        return size * dy / (1 - slope(x)), jnp.zeros_like(x)

    report = check_vjp(rule(forward, bwd, fwd), jnp.array([0.1, -0.1, 0.6]), jnp.zeros(3))
    assert report.ok, str(report)
    assert any("`start`" in note and "rounding" in note for note in report.notes)


def similarity(a, b):
    return jnp.sum(a * b) / (jnp.linalg.norm(a) * jnp.linalg.norm(b))


def similarity_bwd(residuals, dy):
    a, b = residuals
    na, nb = jnp.linalg.norm(a), jnp.linalg.norm(b)
    c = jnp.sum(a * b) / (na * nb)
    return dy * (b / (na * nb) - c * a / na**2), dy * (a / (na * nb) - c * b / nb**2)


@pytest.mark.parametrize("seed", range(3))
def test_a_gradient_that_is_zero_but_for_rounding_is_no_measure_of_precision(seed):
    a = jnp.asarray(np.random.default_rng(0).normal(size=4), "float32")
    a = a / jnp.linalg.norm(a)
    parallel = check_vjp(
        rule(similarity, similarity_bwd), a, 2 * a, seed=seed, checks=("precision",)
    )
    assert parallel.ok, str(parallel)
    assert any(p.dtype == "float32" for p in parallel.precisions)  # measured away from there


def test_a_leaf_whose_cotangent_is_always_zero_has_no_digits_to_lose():
    def centred(x, b):
        y = x + b
        return y - jnp.mean(y)

    def bwd(_, dy):
        return dy - jnp.mean(dy), jnp.sum(100 * dy - 99 * dy - jnp.mean(dy))

    for seed in range(3):
        report = check_vjp(
            rule(centred, bwd), normal(7), jnp.float32(0.3), seed=seed, checks=("precision",)
        )
        assert report.ok, str(report)
