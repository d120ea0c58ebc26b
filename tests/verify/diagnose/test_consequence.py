"""One mistake in two cotangents is one mistake; integers off by one; a transposed solve."""

import jax
import jax.numpy as jnp
import pytest

from jaxbp.verify import check_vjp
from tests.verify.rules import normal, rule


def words(fn, *args):
    report = check_vjp(fn, *args, checks=("gradient",))
    return {f.argument: (f.diagnosis, f.message) for f in report.findings}


def solve(a, b):
    return jnp.linalg.solve(a, b)


A = normal(4, 4) + 4 * jnp.eye(4, dtype="float32")


def fixed_point(w, b):
    return jax.lax.scan(lambda z, _: (jnp.tanh(w @ z + b), None), 0 * b, None, length=80)[0]


def fixed_point_bwd(residuals, dz):
    w, z = residuals
    slope = 1 - z * z
    not_transposed = jnp.eye(len(z), dtype=z.dtype) - slope[:, None] * w
    u = slope * jnp.linalg.solve(not_transposed, dz)
    return jnp.outer(u, z), u


def test_what_is_computed_from_a_wrong_cotangent_follows_from_it():
    wrong = rule(
        fixed_point,
        fixed_point_bwd,
        fwd=lambda w, b: (fixed_point(w, b), (w, fixed_point(w, b))),
    )
    found = words(wrong, 0.2 * normal(4, 4), normal(4))
    assert found["w"][0] == found["b"][0] == "transposed"
    assert "follows from what is wrong for `b`" in found["w"][1]


def test_two_mistakes_are_two():
    def bwd(residuals, dx):
        a, x = residuals
        db = jnp.linalg.solve(a.T, dx)
        return jnp.tanh(jnp.outer(db, x)).sum() * jnp.outer(jnp.sin(x), dx), 2 * db

    found = words(rule(solve, bwd, fwd=lambda a, b: (solve(a, b), (a, solve(a, b)))), A, normal(4))
    assert found["b"][0] == "scale"
    assert "follows" not in found["a"][1]


def test_a_solve_the_other_way_round_between_two_factors():
    def forward(b):
        return jnp.arange(1.0, 5.0, dtype=b.dtype) * solve(jnp.asarray(A, b.dtype), b)

    wrong = rule(
        forward,
        lambda _, dx: (solve(jnp.asarray(A, dx.dtype), jnp.arange(1.0, 5.0, dtype=dx.dtype) * dx),),
    )
    assert words(wrong, normal(4))["b"][0] == "transposed"


def test_a_running_sum_the_other_way_round():
    def forward(x):
        return jnp.cumsum(x) * jnp.arange(2.0, 8.0, dtype=x.dtype)

    wrong = rule(forward, lambda _, dy: (jnp.cumsum(dy * jnp.arange(2.0, 8.0, dtype=dy.dtype)),))
    assert words(wrong, normal(6))["x"][0] == "transposed"


@pytest.mark.parametrize("by", [1, -1])
def test_indices_off_by_one(by):
    index = jnp.array([2, 4, 1, 2, 3], "int32")

    def forward(x, index):
        return x[index] * jnp.cos(x[index - 2])

    def bwd(residuals, dy):
        x, index = residuals
        return jax.vjp(lambda x: forward(x, index + by), x)[1](dy)[0], None

    found = words(rule(forward, bwd), normal(8), index)["x"]
    assert found[0] == "shifted"
    assert "`index`" in found[1]
