"""`plain`: the rule goes, the primal stays, wherever the rule stands."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxbp.plain import plain
from tests.tolerance import assert_close


@jax.custom_vjp
def cube(x):
    return x * x * x


# Wrong on purpose: whoever sees the rule gets 100 and not 3 x².
cube.defvjp(lambda x: (cube(x), None), lambda _, dy: (100.0 * dy,))


@jax.custom_vjp
def nested(x):
    return cube(x) + x


nested.defvjp(lambda x: (nested(x), None), lambda _, dy: (100.0 * dy,))


@jax.custom_vjp
def passes_through(x):
    """One output is the input itself, one a constant, one is never read."""
    return x, jnp.arange(3, dtype=x.dtype), x + 1


passes_through.defvjp(lambda x: (passes_through(x), None), lambda _, dy: (100.0 * dy[0],))

PLACES = {
    "bare": cube,
    "jit": jax.jit(cube),
    "twice in jit": jax.jit(lambda x: cube(x) - x + cube(x)),
    "scan": lambda x: jax.lax.scan(lambda c, _: (cube(c), c), x, None, length=2)[0],
    "cond": lambda x: jax.lax.cond(x.sum() > 0, cube, lambda y: y, x),
    "switch": lambda x: jax.lax.switch(1, [lambda y: y, cube], x),
    "checkpoint": jax.checkpoint(lambda x: jnp.sin(cube(x))),
    "vmap": jax.vmap(cube),
    "rule in rule": nested,
    "passes through": lambda x: passes_through(x)[0] * passes_through(x)[1],
    "jit in scan": lambda x: jax.lax.scan(
        lambda c, _: (jax.jit(jax.checkpoint(cube))(c), None), x, None, length=2
    )[0],
}


def by_hand(x):
    return x * x * x


EXPECTED = {
    "bare": by_hand,
    "jit": by_hand,
    "twice in jit": lambda x: 2 * by_hand(x) - x,
    "scan": lambda x: by_hand(by_hand(x)),
    "cond": by_hand,
    "switch": by_hand,
    "checkpoint": lambda x: jnp.sin(by_hand(x)),
    "vmap": by_hand,
    "rule in rule": lambda x: by_hand(x) + x,
    "passes through": lambda x: x * jnp.arange(3, dtype=x.dtype),
    "jit in scan": lambda x: by_hand(by_hand(x)),
}

X = np.array([0.5, 0.75, 1.25], np.float32)


@pytest.mark.parametrize("under", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("place", PLACES)
def test_the_rule_is_gone(place, under):
    x = jnp.asarray(X)
    value, (dx,) = under(lambda x: _value_and_cotangent(plain(PLACES[place]), x))(x)
    truth, (right,) = _value_and_cotangent(EXPECTED[place], x)
    assert_close(value, truth, terms=12)
    assert_close(dx, right, terms=40)


def _value_and_cotangent(function, x):
    y, back = jax.vjp(function, x)
    return y, back(jnp.ones_like(y))


@pytest.mark.parametrize("place", PLACES)
def test_the_value_is_bit_equal(place):
    np.testing.assert_array_equal(plain(PLACES[place])(X), PLACES[place](jnp.asarray(X)))


def test_second_order_and_forward_mode():
    x = jnp.asarray(X)
    assert_close(jax.vmap(jax.grad(jax.grad(plain(nested))))(x), 6 * X, terms=8)
    assert_close(jax.jvp(plain(nested), (x,), (x,))[1], 3 * X**3 + X, terms=8)


def test_shard_map():
    mesh = jax.make_mesh((2,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.shard_map(nested, mesh=mesh, in_specs=P("i"), out_specs=P("i"))
    x = jnp.arange(1.0, 5.0, dtype=jnp.float32)
    assert_close(jax.grad(lambda x: plain(spread)(x).sum())(x), 3 * np.asarray(x) ** 2 + 1, terms=4)


def test_trees_keywords_and_what_is_no_array():
    def fn(tree, name, *, power, scale=2.0):
        assert name == "cube"
        assert isinstance(power, int)
        y = cube(tree["x"]) * scale if power == 3 else tree["x"]
        return {"y": y, "name": name, "none": None, "x": tree["x"], "power": power}

    result = plain(fn)({"x": jnp.asarray(X)}, "cube", power=3)
    assert (result["name"], result["power"], result["none"]) == ("cube", 3, None)
    np.testing.assert_array_equal(result["x"], X)
    step = jax.jit(
        jax.grad(lambda t, **k: plain(fn)(t, "cube", **k)["y"].sum()), static_argnames="power"
    )
    assert_close(step({"x": jnp.asarray(X)}, power=3)["x"], 6 * X**2, terms=4)


def test_other_rules_stay():
    straight = jax.custom_jvp(lambda x: jnp.round(x))
    straight.defjvp(lambda x, dx: (jnp.round(x[0]), dx[0]))
    assert jax.grad(plain(straight))(0.3) == 1.0


def test_closures_over_tracers():
    x = jnp.asarray(X)
    dx = jax.grad(lambda x: plain(lambda: cube(x).sum())())(x)
    assert_close(dx, 3 * X**2, terms=4)


def test_effects_are_kept(capsys):
    def fn(x):
        jax.debug.print("x is {x}", x=x)
        return cube(x)

    plain(fn)(jnp.float32(2))
    jax.effects_barrier()
    assert "x is 2.0" in capsys.readouterr().out


def test_jit_compiles_once():
    traces = 0

    @jax.jit
    def inner(x):
        nonlocal traces
        traces += 1
        return cube(x)

    fn = plain(inner)
    for _ in range(3):
        fn(jnp.asarray(X))
    assert traces == 1


def test_what_is_no_function_is_refused():
    with pytest.raises(TypeError, match="plain: fn must be a callable, got 3"):
        plain(3)
