"""What every rule must survive: JAX's transformations, each compared with autodiff of plain code.

    @pytest.mark.parametrize("transform", TRANSFORMS)
    def test_transforms(transform, rng):
        TRANSFORMS[transform](rule, plain, (x, w), terms=50)

`rule` and `plain` take the same positional arguments; `plain` has no hand-written rule in it.
Arguments that are not floating (labels) get no cotangent. The first argument is the batch, its
leading axis and the result's leading axis count examples; the others are parameters, unless
`batched` (the indices of the arguments with a leading axis of examples) says otherwise.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from tests.tolerance import assert_close, assert_no_worse, assert_trees_close

Function = Callable[..., Any]
Arguments = Sequence[Any]

DTYPES = ("float64", "float32", "bfloat16", "float16")
PLATFORMS = ("cpu", "cuda", "tpu")


def differentiable(args: Arguments) -> tuple[int, ...]:
    """The indices of the floating arguments."""
    return tuple(
        i for i, a in enumerate(args) if jnp.issubdtype(jnp.asarray(a).dtype, jnp.floating)
    )


def cotangent_like(y: Any, seed: int = 0) -> jax.Array:
    """A random cotangent for the value y."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal(y.shape), y.dtype)


def value_and_cotangents(fn: Function, args: Arguments, dy: Any = None) -> tuple[Any, list[Any]]:
    """fn's value, and its floating arguments' cotangents for the cotangent dy (or a random one)."""
    y, pullback = jax.vjp(fn, *args)
    cotangents = pullback(cotangent_like(y) if dy is None else dy)
    return y, [cotangents[i] for i in differentiable(args)]


def compiled(fn: Function, args: Arguments, dy: Any = None) -> Any:
    """The same as one program, which compiles quicker than operation by operation."""
    return jax.jit(lambda args, dy: value_and_cotangents(fn, args, dy))(
        [jnp.asarray(a) for a in args], dy
    )


def check_plain(rule: Function, plain: Function, args: Arguments, *, terms: int) -> None:
    """Value and cotangents eagerly and under jit; each in its primal's dtype."""
    expected = compiled(plain, args)
    actual = value_and_cotangents(rule, args)
    assert_trees_close(actual, expected, terms=terms)
    assert_trees_close(compiled(rule, args), expected, terms=terms)
    for i, cotangent in zip(differentiable(args), actual[1], strict=True):
        primal = jnp.asarray(args[i])
        assert cotangent.dtype == primal.dtype, f"argument {i}: {cotangent.dtype}"
        assert cotangent.shape == primal.shape, f"argument {i}: {cotangent.shape}"


def check_vmap(rule: Function, plain: Function, args: Arguments, *, terms: int) -> None:
    """vmap over every subset of the arguments: cotangents outside it, and inside it.

    Outside, the cotangent of an argument that is not mapped over is a sum over the mapped axis.
    """
    count, floating = len(args), differentiable(args)
    stacked = [jnp.stack([jnp.asarray(a), _moved(a)]) for a in args]

    def along(fn: Function, mapped: tuple[Any, ...], dys: Any, these: Arguments) -> Any:
        outside = value_and_cotangents(jax.vmap(fn, in_axes=mapped), these, dys)
        inside = jax.vmap(
            lambda dy, *these: value_and_cotangents(fn, these, dy), in_axes=(0, *mapped)
        )(dys, *these)
        return outside, inside

    @jax.jit
    def one_by_one(dys: Any, stacked: Arguments) -> Any:
        each = [value_and_cotangents(plain, [s[i] for s in stacked], dys[i]) for i in range(2)]
        return jax.tree.map(lambda *examples: jnp.stack(examples), *each)

    y = jax.eval_shape(plain, *args)
    dys = cotangent_like(jax.ShapeDtypeStruct((2, *y.shape), y.dtype))
    for mapped in itertools.product((None, 0), repeat=count):
        if not any(axis == 0 for axis in mapped):
            continue
        these = [s if axis == 0 else s[0] for axis, s in zip(mapped, stacked, strict=True)]
        repeated = [
            s if axis == 0 else jnp.stack([s[0], s[0]])
            for axis, s in zip(mapped, stacked, strict=True)
        ]
        value, cotangents = one_by_one(dys, repeated)
        summed = [
            c if mapped[i] == 0 else jnp.sum(c, axis=0)
            for i, c in zip(floating, cotangents, strict=True)
        ]
        actual = jax.jit(partial(along, rule, mapped))(dys, these)
        assert_trees_close(actual, ((value, summed), (value, cotangents)), terms=2 * terms)


def check_second_order(rule: Function, plain: Function, args: Arguments, *, terms: int) -> None:
    """grad of grad: of a scalar made of the value and all first cotangents."""

    def gradient(fn: Function, dy: Any, *args: Any) -> Any:
        return jax.grad(_first_order, argnums=(1, *(2 + i for i in differentiable(args))))(
            fn, dy, *args
        )

    dy = cotangent_like(jax.eval_shape(plain, *args))
    actual = jax.jit(partial(gradient, rule))(dy, *args)
    expected = jax.jit(partial(gradient, plain))(dy, *args)
    assert_trees_close(actual, expected, terms=terms * terms)


def check_hessian(rule: Function, plain: Function, args: Arguments, *, terms: int) -> None:
    """jacfwd of jacrev, by the first floating argument and by the others along one direction."""

    def hessian(fn: Function, *args: Any) -> Any:
        first, *others = differentiable(args)

        def scalar(t: Any, direction: Any) -> Any:
            moved = list(args)
            moved[first] = moved[first] + t * direction
            for i in others:
                moved[i] = moved[i] * (1 + t)
            y = fn(*moved)
            return jnp.sum(jnp.sin(y) * cotangent_like(y))

        zero = jnp.zeros((), args[first].dtype)
        direction = cotangent_like(args[first], seed=1)
        return jax.jacfwd(jax.jacrev(scalar, argnums=(0, 1)), argnums=(0,))(zero, direction)

    actual = jax.jit(partial(hessian, rule))(*args)
    expected = jax.jit(partial(hessian, plain))(*args)
    assert_trees_close(actual, expected, terms=terms * terms)


def check_checkpoint(rule: Function, plain: Function, args: Arguments, *, terms: int) -> None:
    """Under jax.checkpoint, where forward runs again for backward."""

    def remat(fn: Function) -> Function:
        return jax.checkpoint(lambda *args: jnp.sin(fn(*args)))

    assert_trees_close(compiled(remat(rule), args), compiled(remat(plain), args), terms=terms)


def check_scan(
    rule: Function, plain: Function, args: Arguments, *, terms: int, batched: Sequence[int] = (0,)
) -> None:
    """In the body of a scan over the batched arguments, the parameters being closed over."""

    def scanned(fn: Function) -> Function:
        def over_time(*args: Any) -> Any:
            steps = [jnp.stack([args[i], _moved(args[i])]) for i in batched]

            def body(total: Any, step: Any) -> Any:
                these = list(args)
                for i, value in zip(batched, step, strict=True):
                    these[i] = value
                y = fn(*these)
                return total + y, y

            y = jax.eval_shape(fn, *args)
            total, each = jax.lax.scan(body, jnp.zeros(y.shape, y.dtype), steps)
            return jnp.concatenate([total[None], each])

        return over_time

    assert_trees_close(
        compiled(scanned(rule), args), compiled(scanned(plain), args), terms=2 * terms
    )


def check_shard_map(
    rule: Function, plain: Function, args: Arguments, *, terms: int, batched: Sequence[int] = (0,)
) -> None:
    """Over two devices with shard_map's own checks: examples spread, parameters replicated.

    The gradient is taken inside the shard_map and outside of it; both are the sum over all devices.
    """
    assert jax.device_count() >= 2, "the test needs two devices"
    mesh = Mesh(np.array(jax.devices()[:2]), ("devices",))
    spread, whole = PartitionSpec("devices"), PartitionSpec()
    specs = tuple(spread if i in batched else whole for i in range(len(args)))
    # Twice the batch, so that each device has a whole one.
    args = [
        jnp.concatenate([jnp.asarray(a), _moved(a)]) if i in batched else jnp.asarray(a)
        for i, a in enumerate(args)
    ]
    floating = differentiable(args)

    def loss(fn: Function, dy: Any, *args: Any) -> Any:
        return jnp.sum(jnp.sin(fn(*args)) * dy)

    def sharded_loss(dy: Any, *args: Any) -> Any:
        total = jax.lax.psum(loss(rule, dy, *args), "devices")
        return total

    argnums = tuple(1 + i for i in floating)
    inside = jax.shard_map(
        jax.grad(sharded_loss, argnums=argnums),
        mesh=mesh,
        in_specs=(spread, *specs),
        out_specs=tuple(specs[i] for i in floating),
    )
    outside = jax.grad(
        jax.shard_map(sharded_loss, mesh=mesh, in_specs=(spread, *specs), out_specs=whole),
        argnums=argnums,
    )
    dy = cotangent_like(jax.eval_shape(plain, *args))
    expected = jax.jit(jax.grad(partial(loss, plain), argnums=argnums))(dy, *args)
    both = jax.jit(lambda *args: (inside(*args), outside(*args)))(dy, *args)
    assert_trees_close(both, (expected, expected), terms=2 * terms)


def check_export(rule: Function, plain: Function, args: Arguments, *, terms: int) -> None:
    """Exported once for all platforms, and run on this one."""
    function = jax.jit(lambda *args: value_and_cotangents(rule, args))
    exported = jax.export.export(function, platforms=PLATFORMS)(*map(jnp.asarray, args))
    assert exported.platforms == PLATFORMS
    assert_trees_close(exported.call(*map(jnp.asarray, args)), compiled(plain, args), terms=terms)


def check_dtypes(
    rule: Function,
    plain: Function,
    args: Arguments,
    *,
    terms: int,
    dtypes: Sequence[str] = DTYPES,
) -> None:
    """In every dtype: no further from the float64 truth than twice autodiff of plain code.

    In float64 itself the truth is autodiff's own answer, so there the bound is the dtype's.
    """
    floating = differentiable(args)

    def in_all(fn: Function) -> Function:
        """One program for all dtypes, which compiles quicker than one for each."""
        return jax.jit(
            lambda versions: {d: value_and_cotangents(fn, *given) for d, given in versions.items()}
        )

    with jax.enable_x64(True):
        versions, exact = {}, {}
        for dtype in dtypes:
            these = [
                jnp.asarray(np.asarray(a), dtype if i in floating else None)
                for i, a in enumerate(args)
            ]
            dy = cotangent_like(jax.eval_shape(plain, *these))
            versions[dtype] = (these, dy)
            wide = [a.astype("float64") if i in floating else a for i, a in enumerate(these)]
            exact[dtype] = (wide, dy.astype("float64"))
        in_float64 = jax.jit(lambda given: value_and_cotangents(plain, *given))
        truths = {dtype: in_float64(given) for dtype, given in exact.items()}
        actual = in_all(rule)(versions)
        autodiff = in_all(plain)({d: given for d, given in versions.items() if d != "float64"})
        for dtype, truth in truths.items():
            assert jax.tree.map(jnp.shape, actual[dtype]) == jax.tree.map(jnp.shape, truth)
            # In float64 the truth is autodiff's own answer.
            for (path, ours), theirs, right in zip(
                jax.tree_util.tree_leaves_with_path(actual[dtype]),
                jax.tree.leaves(autodiff.get(dtype, truth)),
                jax.tree.leaves(truth),
                strict=True,
            ):
                name = "value" if path[0].idx == 0 else f"cotangent {path[1].idx}"
                assert ours.dtype == dtype, f"{name} in {dtype} is {ours.dtype}"
                if dtype == "float64":
                    assert_close(ours, right, terms=terms, what=f"{name} in {dtype}")
                else:
                    assert_no_worse(ours, theirs, right, what=name)


# The operations that sum, and so must not round to half precision between two terms.
SUMS = {"conv_general_dilated", "dot_general", "reduce_sum", "reduce_window_sum", "cumsum"}


def check_sums(rule: Function, plain: Function, args: Arguments, *, terms: int) -> None:
    """In half precision no sum, forward or backward, runs in it: read from the traced program.

    By numbers alone it does not show everywhere: XLA sums some shapes in float32 of its own accord.
    """
    del plain, terms  # the other functions' signature
    floating = differentiable(args)
    for dtype in ("bfloat16", "float16"):
        half = [jnp.asarray(a, dtype if i in floating else None) for i, a in enumerate(args)]
        traced = jax.make_jaxpr(lambda *args: value_and_cotangents(rule, args))(*half)
        for equation in equations(traced.jaxpr):
            if equation.primitive.name in SUMS:
                assert equation.outvars[0].aval.dtype != dtype, f"in {dtype}: {equation}"


def equations(jaxpr: Any) -> Iterator[Any]:
    """Every equation of the program, those of programs within it too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(equation.params, is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def precisions(function: Function, *args: Any) -> list[Any]:
    """What each product of the function asks for."""
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    return [e.params["precision"] for e in equations(jaxpr) if "precision" in e.params]


def _first_order(fn: Function, dy: Any, *args: Any) -> Any:
    y, cotangents = value_and_cotangents(fn, args, dy)
    total = jnp.sum(jnp.sin(y))
    for seed, c in enumerate(cotangents):
        total += jnp.sum(c * cotangent_like(c, seed + 1)).astype(total.dtype)
    return total


def _moved(a: Any) -> jax.Array:
    """A second example of the argument: the same numbers in other places."""
    a = jnp.asarray(a)
    return jnp.roll(a.reshape(-1), 1).reshape(a.shape)


TRANSFORMS: dict[str, Function] = {
    "plain": check_plain,
    "vmap": check_vmap,
    "second order": check_second_order,
    "hessian": check_hessian,
    "checkpoint": check_checkpoint,
    "scan": check_scan,
    "shard_map": check_shard_map,
    "export": check_export,
    "dtypes": check_dtypes,
    "sums": check_sums,
}
