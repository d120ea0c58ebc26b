"""The value that fwd returns is the plain call's, however small, and whatever its dtype."""

import jax
import jax.numpy as jnp
import pytest

from jaxbp.verify import check_vjp
from tests.verify.rules import normal, rule


def mean_square(scale, factor):
    def forward(x):
        return jnp.mean(x**2) * scale

    def bwd(residuals, dy):
        return ((2 * residuals[0] * dy * scale / residuals[0].size).astype(residuals[0].dtype),)

    return rule(forward, bwd, lambda x: (factor * forward(x), (x,)))


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize(
    ("scale", "dtype"),
    [(1.0, "float32"), (1e-9, "float32"), (1e-30, "float32"), (1e-3, "bfloat16")],
)
def test_a_factor_is_seen_at_every_size(scale, dtype, factor):
    x = normal(6).astype(dtype)
    report = check_vjp(mean_square(scale, factor), x, checks=("structure",))
    assert report.ok == (factor == 1), str(report)
    assert all(f.check == "fwd-value" for f in report.findings)


@pytest.mark.parametrize("place", [jnp.argmax, jnp.argmin])
def test_integer_outputs_are_compared_too(place):
    def forward(x):
        return jnp.max(x), jnp.argmax(x)

    def bwd(residuals, dys):
        (x,) = residuals
        return (jnp.where(jnp.arange(x.size) == jnp.argmax(x), dys[0], 0),)

    fn = rule(forward, bwd, lambda x: ((jnp.max(x), place(x)), (x,)))
    report = check_vjp(fn, normal(6), checks=("structure",))
    assert report.ok == (place is jnp.argmax), str(report)
    if not report.ok:
        (finding,) = report.findings
        assert finding.check == "fwd-value"
        assert "int32" in finding.message


def test_a_value_summed_in_another_order_is_the_same():
    fn = rule(
        lambda x: jnp.sum(x),
        lambda residuals, dy: (jnp.full_like(residuals[0], dy),),
        lambda x: (jax.lax.fori_loop(0, x.size, lambda i, s: s + x[i], x[0] * 0), (x,)),
    )
    report = check_vjp(fn, normal(200), checks=("structure",))
    assert report.ok, str(report)
