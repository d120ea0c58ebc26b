"""Functions with half precision inside: their formulas are judged as sharply as any others."""

import jax
import jax.numpy as jnp
import pytest

from jaxbp.verify import check_vjp
from tests.verify.rules import normal, rule

HALF = [jnp.bfloat16, jnp.float16]


def product(dtype):
    def forward(a, b):
        narrow = jnp.dot(a.astype(dtype), b.astype(dtype), preferred_element_type=jnp.float32)
        return narrow.astype(a.dtype)

    return forward


def sum_of_steps(dtype):
    def forward(a, b):
        def step(h, row):
            h = jax.lax.cond(row[0] > 0, jnp.sin, jnp.cos, h + row.astype(dtype)[: h.size])
            return jax.lax.fori_loop(0, 2, lambda _, h: h * jnp.asarray(0.9, dtype), h), h

        return jax.lax.scan(step, jnp.ones(b.shape[0], dtype), a)[1].astype(a.dtype) @ b

    return forward


def times(forward, factor):
    def bwd(residuals, dy):
        return tuple(factor * g for g in jax.vjp(forward, *residuals)[1](dy))

    return rule(forward, bwd)


@pytest.mark.parametrize("factor", [1, 1.1, -1, 0])
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("make", [product, sum_of_steps])
def test_a_factor_is_seen(make, dtype, factor):
    checks = ("gradient",) if factor != 1 else None
    report = check_vjp(times(make(dtype), factor), normal(6, 4), normal(4, 5), checks=checks)
    assert report.ok == (factor == 1), str(report)
    if factor != 1:
        assert {f.check for f in report.findings} == {"gradient"}
        assert {f.argument for f in report.findings} == {"a", "b"}


@pytest.mark.parametrize("factor", [1, 2, -1])
def test_half_precision_in_and_out(factor):
    def forward(x, w):
        return (x.astype(jnp.float32) * w.astype(jnp.float32)).astype(jnp.bfloat16)

    def bwd(residuals, dy):
        x, w, dy = (v.astype(jnp.float32) for v in (*residuals, factor * dy))
        return (dy * w).astype(jnp.bfloat16), (dy * x).sum(0).astype(jnp.bfloat16)

    x, w = normal(6, 3).astype(jnp.bfloat16), normal(3).astype(jnp.bfloat16)
    checks = ("gradient",) if factor != 1 else None
    report = check_vjp(rule(forward, bwd), x, w, checks=checks)
    assert report.ok == (factor == 1), str(report)


@pytest.mark.parametrize("factor", [1, 2])
def test_bits_keep_their_meaning(factor):
    def forward(x):
        bits = jax.lax.bitcast_convert_type(x.astype(jnp.bfloat16), jnp.uint16)
        return x.astype(jnp.bfloat16).astype(x.dtype) * (bits >> 15).astype(x.dtype)  # the sign

    def bwd(residuals, dy):
        return (jnp.where(residuals[0] < 0, factor * dy, 0),)

    assert check_vjp(rule(forward, bwd), normal(6), checks=("gradient",)).ok == (factor == 1)


def test_a_rounding_that_is_asked_for_is_one_too():
    def forward(x):
        return 3 * jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7).astype(
            jnp.bfloat16
        )

    report = check_vjp(rule(forward, lambda _, dy: (3 * dy.astype("float32"),)), normal(6))
    assert not [f for f in report.findings if f.check == "gradient"], str(report)


def mixed(form):
    """A weight's gradient in float32 beside an input in bfloat16."""

    def forward(x, w):
        return (x.astype(w.dtype) * w).sum(-1)

    def bwd(residuals, dy):
        x, w = residuals
        dx, dw = (dy[:, None] * w).astype(x.dtype), (dy[:, None] * x.astype(w.dtype)).sum(0)
        if form == "half":
            dw = (dy.astype(x.dtype)[:, None] * x).sum(0).astype(w.dtype)
        if form == "twice" and x.dtype != w.dtype:
            dw = 2 * dw
        return dx, dw

    return rule(forward, bwd)


@pytest.mark.parametrize("form", ["right", "half", "twice"])
def test_dtypes_that_differ_are_compared_as_they_are_given(form):
    x = normal(64, 8).astype(jnp.bfloat16)
    report = check_vjp(mixed(form), x, normal(8), checks=("precision",))
    assert report.ok == (form == "right"), str(report)
    if not report.ok:
        (finding,) = report.findings
        assert (finding.check, finding.argument) == ("mixed precision", "w")
    if form == "twice":
        assert "something else for these dtypes" in finding.message


def test_a_compiled_cotangent_may_skip_roundings_of_half_precision():
    def forward(x):
        y = x.astype(jnp.bfloat16)
        for _ in range(6):
            y = y * y * jnp.asarray(0.9, jnp.bfloat16) + y
        return y.astype(x.dtype)

    x = jnp.abs(normal(40)) / 4
    report = check_vjp(times(forward, 1), x, checks=("structure",))
    assert "x" not in {f.argument for f in report.findings}, str(report)
