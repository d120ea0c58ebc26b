"""`accelerate` and `explain`: the same numbers, by the rules, wherever the operations stand."""

import contextlib
import functools
import inspect
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, mlir
from jax.sharding import PartitionSpec as P

import jaxbp
from jaxbp import lowering
from jaxbp.accelerate import accelerate
from jaxbp.explain import explain
from jaxbp.lowering import choice
from jaxbp.rules.conv import conv
from tests.daily import sample
from tests.tolerance import assert_close, assert_trees_close
from tests.transforms import precisions

NHWC = ("NHWC", "HWIO", "NHWC")


def random(*shape, seed=0, dtype=None):
    x = np.random.default_rng(seed).normal(size=shape)
    return jnp.asarray(x, dtype or jax.dtypes.canonicalize_dtype(float))


def rules_of(function, *args):
    """What `explain` says: the rule of each operation, or "" for one left alone."""
    return [entry.rule for entry in explain(function, *args).entries]


def assert_same(function, *args, terms=2000):
    """Raise unless value and all gradients are those of the function without us."""
    fast, slow = value_and_grads((accelerate(function), function), *args)
    assert_trees_close(fast, slow, terms=terms)


def value_and_grads(functions, *args):
    """Each function's value and the cotangents of all its arguments, compiled in one program."""

    @jax.jit
    def both(*args):
        results = []
        for function in functions:
            y, back = jax.vjp(function, *args)
            dy = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
            results.append((y, back(dy)))
        return results

    return both(*args)


# ---------------------------------------------------------------- convolution, in every form

CONVOLUTIONS = {
    "NHWC": ((2, 7, 6, 3), (3, 3, 3, 4), {"dimension_numbers": NHWC}),
    "NCHW": ((2, 3, 7, 6), (4, 3, 3, 3), {}),
    "HWNC": ((7, 6, 2, 3), (4, 3, 3, 3), {"dimension_numbers": ("HWNC", "OIHW", "CNHW")}),
    "CHWN": ((3, 7, 6, 2), (3, 3, 4, 3), {"dimension_numbers": ("CHWN", "IHOW", "HCNW")}),
    "1-D": ((2, 9, 3), (4, 3, 5), {"dimension_numbers": ("NWC", "WIO", "NWC")}),
    "1-D NCW": ((2, 3, 9), (5, 3, 4), {"padding": [(2, 1)]}),
    "3-D": ((2, 2, 5, 4, 6), (3, 2, 2, 3, 1), {"window_strides": (1, 2, 1)}),
    "strided": ((2, 3, 7, 6), (4, 3, 3, 3), {"window_strides": (2, 3)}),
    "SAME": ((2, 3, 7, 6), (4, 3, 3, 3), {"padding": "SAME", "window_strides": (2, 2)}),
    "negative padding": ((2, 3, 9, 9), (4, 3, 3, 3), {"padding": [(-1, 2), (1, -2)]}),
    "cropped to nothing": ((2, 3, 1), (4, 3, 1), {"padding": [(-2, 3)]}),
    "first window in the padding": (
        (2, 3, 2),
        (4, 3, 1),
        {"padding": [(2, 0)], "window_strides": (4,)},
    ),
    "dilated": ((2, 3, 9, 9), (4, 3, 3, 3), {"rhs_dilation": (2, 3)}),
    "groups": ((2, 4, 7, 6), (6, 2, 3, 3), {"feature_group_count": 2}),
    "depthwise": ((2, 4, 7, 6), (8, 1, 3, 3), {"feature_group_count": 4}),
    "batch groups": ((6, 3, 7, 6), (4, 3, 3, 3), {"batch_group_count": 2}),
    "strides and a dilated input": (
        (2, 4, 7, 6),
        (6, 2, 3, 3),
        {"lhs_dilation": (3, 2), "window_strides": (2, 1), "feature_group_count": 2},
    ),
    "batch groups, strides and a dilated input": (
        (6, 3, 7, 6),
        (4, 3, 3, 3),
        {"lhs_dilation": (3, 2), "window_strides": (2, 1), "batch_group_count": 2},
    ),
    "pointwise": ((2, 7, 6, 3), (1, 1, 3, 4), {"dimension_numbers": NHWC}),
}
TRANSPOSED = {
    "lhs dilation": ((2, 3, 5, 4), (4, 3, 3, 3), {"lhs_dilation": (2, 2)}),
    "uneven": ((2, 3, 5, 4), (4, 3, 3, 2), {"lhs_dilation": (1, 3), "padding": [(2, 0), (-1, 1)]}),
    "both dilated": ((2, 3, 7, 4), (4, 3, 3, 3), {"lhs_dilation": (2, 2), "rhs_dilation": (2, 1)}),
    "grouped": ((2, 4, 5, 4), (6, 2, 3, 3), {"lhs_dilation": (2, 2), "feature_group_count": 2}),
    "batch groups": ((6, 3, 5, 4), (4, 3, 3, 3), {"lhs_dilation": (2, 2), "batch_group_count": 2}),
    "cropped by more than undilated": (
        (2, 3, 3),
        (4, 3, 2),
        {"lhs_dilation": (4,), "padding": [(-2, -2)]},
    ),
    "1-D": (
        (2, 5, 3),
        (4, 3, 5),
        {"lhs_dilation": (3,), "dimension_numbers": ("NWC", "WIO", "NWC"), "padding": [(3, 3)]},
    ),
}
CSSN = {"dimension_numbers": ("CHWN", "IHWO", "HWNC")}
OTHER_SUMS = {
    "stride 1": ((2, 7, 6, 3), (2, 5, 5, 4), {"padding": [(1, 0), (0, -1)], **CSSN}),
    "strided": ((2, 9, 9, 3), (2, 4, 4, 4), {"rhs_dilation": (2, 2), **CSSN}),
    "dilated": ((2, 9, 9, 3), (2, 6, 6, 4), {"window_strides": (2, 2), **CSSN}),
    "grouped": ((2, 7, 6, 4), (2, 6, 5, 6), {"batch_group_count": 2, **CSSN}),
    "of batch groups": ((6, 7, 6, 4), (3, 6, 5, 4), {"feature_group_count": 2, **CSSN}),
    "of an image no larger than its kernel": (
        (2, 4, 4, 6),
        (2, 4, 4, 6),
        {"batch_group_count": 6, "padding": [(2, 2), (2, 2)], **CSSN},
    ),
    "of a transposed one": (
        (2, 4, 3, 3),
        (2, 9, 9, 4),
        {"lhs_dilation": (2, 3), "padding": [(2, 3), (1, 4)], **CSSN},
    ),
    "of a transposed one with groups, dilated": (
        (2, 4, 3, 4),
        (2, 9, 9, 6),
        {
            "lhs_dilation": (2, 3),
            "padding": [(4, 3), (3, 4)],
            "window_strides": (2, 1),
            "batch_group_count": 2,
            **CSSN,
        },
    ),
    "of strides and a dilated input": (
        (4, 4, 3, 3),
        (2, 6, 7, 4),
        {
            "lhs_dilation": (3, 4),
            "padding": [(2, 1), (1, 1)],
            "rhs_dilation": (2, 1),
            "feature_group_count": 2,
            **CSSN,
        },
    ),
}


def convolution(options):

    def function(x, w):
        axes = x.ndim - 2
        defaults = {"window_strides": (1,) * axes, "padding": [(0, 0)] * axes}
        return lax.conv_general_dilated(x, w, **{**defaults, **options})

    return function


@pytest.mark.parametrize(
    ("name", "rule"),
    sample(
        [
            *((name, "conv") for name in CONVOLUTIONS),
            *((name, "conv_transpose") for name in TRANSPOSED),
            *((name, "conv_kernel_grad") for name in OTHER_SUMS),
        ],
        every=2,
    ),
)
def test_convolution(name, rule):
    cases = {"conv": CONVOLUTIONS, "conv_transpose": TRANSPOSED, "conv_kernel_grad": OTHER_SUMS}
    x, w, options = cases[rule][name]
    args = random(*x), random(*w, seed=1)
    assert rules_of(convolution(options), *args) == [rule]
    assert_same(convolution(options), *args)


@pytest.mark.parametrize("groups", [1, 2])
def test_gradients_a_member_and_an_example(float64, groups):
    """Which vmap writes with more groups, forward and in both gradients."""

    def loss(x, w):
        options = {"dimension_numbers": NHWC, "feature_group_count": groups}
        return jnp.sum(lax.conv_general_dilated(x, w, (2, 1), "SAME", **options) ** 3)

    kernels = random(2, 3, 3, 4 // groups, 6, seed=1)
    gradient = jax.grad(loss, (0, 1))
    members = jax.vmap(gradient)
    examples = jax.vmap(gradient, (0, None))
    for function, w in ((members, kernels), (examples, kernels[0])):
        args = random(2, 2, 5, 6, 4), w
        assert sorted(rules_of(function, *args)) == ["conv", "conv_kernel_grad", "conv_transpose"]
        fast, slow = jax.jit(lambda *a, f=function: (accelerate(f)(*a), f(*a)))(*args)
        assert_trees_close(fast, slow, terms=2000)


def taken_already(options):
    """Value and gradients of a convolution, as what `accelerate` is given."""

    def function(x, w):
        y, back = jax.vjp(convolution({"dimension_numbers": NHWC, **options}), x, w)
        return y, back(jnp.cos(y))

    return function


DEPTHWISE = {
    "multiplier 1": ((2, 7, 6, 4), (3, 3, 1, 4), {"padding": "SAME"}),
    "multiplier 2, strided": ((2, 7, 6, 4), (3, 2, 1, 8), {"window_strides": (2, 1)}),
    "dilated": ((2, 7, 6, 4), (3, 2, 1, 4), {"rhs_dilation": (2, 1)}),
    "transposed": ((2, 4, 3, 4), (3, 3, 1, 8), {"lhs_dilation": (2, 3), "padding": [(2, 2)] * 2}),
    "as large as the image": ((2, 3, 3, 4), (3, 3, 1, 4), {}),
}


@pytest.mark.parametrize("name", DEPTHWISE)
def test_gradients_of_a_depthwise_convolution_taken_already(float64, name):
    x, w, options = DEPTHWISE[name]
    function = taken_already({**options, "feature_group_count": 4})
    args = random(*x), random(*w, seed=1)
    found = rules_of(function, *args)
    assert found.count("conv_kernel_grad") == 1
    assert set(found) <= {"conv", "conv_transpose", "conv_kernel_grad"}
    fast, slow = jax.jit(lambda *a: (accelerate(function)(*a), function(*a)))(*args)
    assert_trees_close(fast, slow, terms=2000)


# ---------------------------------------------------------------- lax's other convolutions


@pytest.mark.parametrize("transposed", [False, True])
def test_lax_conv_transpose(float64, transposed):
    def function(x, w):
        options = {"dimension_numbers": NHWC, "transpose_kernel": transposed}
        return lax.conv_transpose(x, w, (2, 3), "SAME", (1, 2), **options)

    args = random(2, 4, 3, 3), random(3, 2, *((4, 3) if transposed else (3, 4)), seed=1)
    assert rules_of(function, *args) == ["conv_transpose"]
    assert_same(function, *args)


def test_lax_conv_with_general_padding(float64):
    def function(x, w):
        return lax.conv_with_general_padding(x, w, (1, 2), [(1, 0), (-1, 2)], None, (2, 1))

    args = random(2, 3, 7, 6), random(4, 3, 3, 2, seed=1)
    assert rules_of(function, *args) == ["conv"]
    assert_same(function, *args)


PATCHES = {
    "NHWC": ((2, 7, 6, 3), (3, 2), {"padding": "SAME", "dimension_numbers": NHWC}),
    "mixed layouts": (
        (2, 7, 6, 3),
        (3, 2),
        {"rhs_dilation": (1, 2), "dimension_numbers": ("NHWC", "OIWH", "HNCW")},
    ),
    "a tiling with a remainder": ((2, 3, 8, 10), (2, 3), {"window_strides": (2, 3)}),
    "dilated and cropped": (
        (2, 3, 9, 9),
        (2, 3),
        {"window_strides": (1, 3), "padding": [(1, -2), (0, 1)], "lhs_dilation": (2, 1)},
    ),
    "1-D, of a precision": ((2, 3, 9), (4,), {"precision": lax.Precision.HIGHEST}),
    "3-D": ((2, 3, 5, 4, 6), (2, 1, 3), {"window_strides": (1, 1, 2)}),
}


@pytest.mark.parametrize("name", PATCHES)
def test_patches_are_copied_out(float64, name):
    shape, size, options = PATCHES[name]
    options = {"window_strides": (1,) * len(size), "padding": "VALID", **options}

    def function(x):
        return lax.conv_general_dilated_patches(x, size, **options)

    x = random(*shape)
    assert rules_of(function, x) == ["slices"]
    assert_same(function, x)
    text = jax.jit(accelerate(function)).lower(x).as_text()
    assert "convolution" not in text
    assert "convolution" in jax.jit(function).lower(x).as_text()


def test_patches_of_many_cells_stay_a_convolution(float64):
    def function(x):
        return lax.conv_general_dilated_patches(x, (40, 40), (1, 1), "VALID")

    x = random(1, 1, 41, 40)
    assert rules_of(function, x) == ["conv"]
    assert_same(function, x)


KERNELS_LIKE_PATCHES = {
    "turned": lambda eye: eye[::-1],
    "shifted": lambda eye: jnp.roll(eye, 1, 0),
    "scaled": lambda eye: 2 * eye,
    "beside the diagonal": lambda eye: jnp.eye(4, k=1, dtype=eye.dtype),
    "below the diagonal": lambda eye: jnp.tri(4, dtype=eye.dtype),
}


@pytest.mark.parametrize("name", KERNELS_LIKE_PATCHES)
def test_other_constant_kernels_are_no_patches(float64, name):
    def function(x):
        w = KERNELS_LIKE_PATCHES[name](jnp.eye(4, dtype=x.dtype))
        w = jnp.broadcast_to(w, (3, 4, 4)).reshape(12, 1, 2, 2)
        return lax.conv_general_dilated(x, w, (1, 1), "VALID", feature_group_count=3)

    x = random(2, 3, 5, 4)
    assert rules_of(function, x) == ["conv"]
    assert_same(function, x)


def test_types_that_no_rule_keeps_are_left_alone():
    """Shardings in the type, sizes not known yet, weak types: of a single one and of a block."""
    mesh = jax.make_mesh((2,), ("devices",), axis_types=(jax.sharding.AxisType.Explicit,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("devices"))
    x, w, four = random(4, 6, 6, 3), random(3, 3, 3, 3), random(3, 3, 3, 4)
    with jax.set_mesh(mesh):
        given = jax.device_put(x, spread), w
        fast, slow = (
            # JAX itself has no gradient for the kernel of such a convolution.
            jax.jit(jax.value_and_grad(lambda *a, f=f: jnp.sum(jnp.sin(f(*a)))))
            for f in (accelerate(pooled), pooled)
        )
        assert_trees_close(fast(*given), slow(*given), terms=2000)
        (entry,) = explain(convolve, *given).entries
        assert "sharded explicitly" in entry.reason
        b = jax.device_put(jnp.ones(4, x.dtype), spread)
        assert rules_of(pooled_first, x, four, b) == ["conv", ""]
        # One operand on the mesh is enough, whole on each device too.
        whole = jax.device_put(w, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
        assert rules_of(convolve, x, whole) == [""]
        assert rules_of(convolve, x, w) == ["conv"]
        assert_same(convolve, x, w)
        # Each example's own type says nothing of the axis that vmap puts before it.
        fast, slow = (
            jax.vmap(jax.grad(lambda x, f=f: f(x[None], w).sum()))(given[0])
            for f in (accelerate(pooled), pooled)
        )
        assert_close(fast, slow, terms=200)

    sizes = jax.export.symbolic_shape("n, 2*h, w, 3")
    some = [jax.ShapeDtypeStruct(sizes, x.dtype), jax.ShapeDtypeStruct(w.shape, w.dtype)]
    exported = jax.export.export(jax.jit(accelerate(pooled)))(*some)
    assert_close(exported.call(x, w), pooled(x, w), terms=200)
    gradient = jax.grad(lambda x, w: convolve(x, w).sum(), 1)
    exported = jax.export.export(jax.jit(accelerate(gradient)))(*some)
    assert_close(exported.call(x, w), gradient(x, w), terms=200)

    with jax.enable_x64(True):
        x, w = x.astype(jnp.float32), w.astype(jnp.float32)

        def wide(x, w):
            options = {"dimension_numbers": NHWC, "preferred_element_type": jnp.float64}
            return lax.conv_general_dilated(x, w, (1, 1), "VALID", **options)

        assert rules_of(wide, x, w) == [""]
        assert accelerate(wide)(x, w).dtype == jnp.float64

    def of_numbers(a):
        return convolve(jnp.broadcast_to(a, (1, 4, 4, 1)), jnp.broadcast_to(a, (1, 1, 1, 1)))

    assert accelerate(of_numbers)(2.0).weak_type
    assert of_numbers(2.0).weak_type


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")  # JAX's own
def test_a_stride_of_zero_is_jax_s_own_business():
    args = random(2, 3, 7, 6), random(4, 3, 3, 3)
    function = convolution({"window_strides": (0, 1)})
    assert rules_of(function, *args) == [""]
    assert jax.eval_shape(accelerate(function), *args) == jax.eval_shape(function, *args)


def test_a_constant_result_is_an_array():
    plain, fast = (f(random(2)) for f in (with_constants, accelerate(with_constants)))
    assert [type(a) for a in fast] == [type(a) for a in plain]
    assert [(a.dtype, a.weak_type) for a in fast] == [(a.dtype, a.weak_type) for a in plain]


def with_constants(x):
    return x, jnp.zeros((), jnp.int32), jnp.asarray(3.0)


LEFT_ALONE = {
    "two precisions, HIGHEST and DEFAULT": (
        (2, 3, 7, 6),
        (4, 3, 3, 3),
        {"precision": ("highest", "default")},
        np.float32,
    ),
    "the products' algorithm F32_F32_F32": (
        (2, 3, 7, 6),
        (4, 3, 3, 3),
        {"precision": "F32_F32_F32"},
        np.float32,
    ),
    "a result in float32": (
        (2, 3, 7, 6),
        (4, 3, 3, 3),
        {"preferred_element_type": jnp.float32},
        jnp.bfloat16,
    ),
    "not of one real floating dtype": ((2, 3, 7, 6), (4, 3, 3, 3), {}, np.complex64),
    "float8_e4m3fn, not": ((2, 3, 7, 6), (4, 3, 3, 3), {}, jnp.float8_e4m3fn),
    "0 spatial axes": ((2, 3), (4, 3), {}, np.float32),
    "empty": ((0, 3, 7, 6), (4, 3, 3, 3), {}, np.float32),
}


@pytest.mark.parametrize("reason", LEFT_ALONE)
def test_what_no_rule_can_keep_stays_bit_equal(reason):
    x, w, options, dtype = LEFT_ALONE[reason]
    args = random(*x, dtype=dtype), random(*w, seed=1, dtype=dtype)
    function = convolution(options)
    (entry,) = explain(function, *args).entries
    assert entry.rule == ""
    assert reason in entry.reason.replace("Precision.", "")
    assert str(jax.make_jaxpr(accelerate(function))(*args)) == str(jax.make_jaxpr(function)(*args))
    np.testing.assert_array_equal(accelerate(function)(*args), function(*args))


ASKING = {
    "conv": CONVOLUTIONS["NHWC"],
    "conv_transpose": TRANSPOSED["uneven"],
    "conv_kernel_grad": OTHER_SUMS["strided"],
}


@pytest.mark.parametrize("asked", ["highest", "high", "default"])
@pytest.mark.parametrize("rule", ASKING)
def test_precision_is_kept(rule, asked):
    """By every product, forward and backward, wherever the gradient is taken."""
    x, w, options = ASKING[rule]
    args = random(*x), random(*w, seed=1)
    function = convolution({**options, "precision": asked})
    assert rules_of(function, *args) == [rule]
    assert_same(function, *args)
    loss = jax.grad(lambda x, w: jnp.sum(jnp.sin(accelerate(function)(x, w))), (0, 1))
    wanted = precisions(loss, *args)
    assert len(wanted) >= 3
    assert set(wanted) == {(lax.Precision[asked.upper()],) * 2}


def test_precision_of_a_block_is_kept():
    """Said around the call, as most do."""
    args = random(2, 8, 8, 3), random(3, 3, 3, 4), random(4)

    def function(x, w, b):
        with jax.default_matmul_precision("highest"):
            return nhwc(x, w, b)

    assert rules_of(function, *args) == ["conv_relu_max_pool"]
    loss = jax.grad(lambda *args: jnp.sum(accelerate(function)(*args)), (0, 1, 2))
    wanted = precisions(loss, *args)
    assert set(wanted) == {(lax.Precision.HIGHEST,) * 2}


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_keeps_its_dtype(dtype):
    args = random(2, 3, 7, 6, dtype=dtype), random(4, 3, 3, 3, seed=1, dtype=dtype)
    function = convolution({})
    dx, dw = jax.grad(lambda *a: accelerate(function)(*a).sum(), argnums=(0, 1))(*args)
    assert dx.dtype == dw.dtype == accelerate(function)(*args).dtype == dtype
    assert_close(
        accelerate(function)(*args), function(*(a.astype("float32") for a in args)), terms=27
    )


# ---------------------------------------------------------------- pooling, over any axes

POOLINGS = {
    "NHWC": ((2, 7, 6, 3), (1, 2, 3, 1), (1, 2, 2, 1), "VALID"),
    "NCHW": ((2, 3, 7, 6), (1, 1, 2, 3), (1, 1, 2, 2), "SAME"),
    "one axis": ((2, 7), (1, 3), (1, 2), "VALID"),
    "bare": ((9,), (3,), (2,), "SAME"),
    "first and last": ((6, 2, 7), (2, 1, 3), (2, 1, 1), "VALID"),
    "three axes": ((2, 5, 4, 3, 6), (1, 2, 2, 1, 3), (1, 1, 2, 1, 3), "VALID"),
    "batch too": ((5, 4, 3), (2, 2, 1), (1, 2, 1), "VALID"),
    "only strides": ((2, 7, 6, 3), (1, 1, 1, 1), (1, 2, 2, 1), "VALID"),
    "padded": ((2, 7, 6, 3), (1, 3, 3, 1), (1, 2, 2, 1), [(0, 0), (2, 1), (0, 2), (0, 0)]),
    "cropped": ((2, 7, 6, 3), (1, 2, 2, 1), (1, 1, 1, 1), [(0, 0), (-1, 1), (0, -2), (0, 0)]),
}


@pytest.mark.parametrize("name", POOLINGS)
def test_max_pool(name):
    shape, window, strides, padding = POOLINGS[name]
    x = random(*shape)

    def function(x):
        return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding)

    assert rules_of(function, x) == ["max_pool"]
    if name == "cropped":  # whose gradient JAX itself refuses
        np.testing.assert_array_equal(accelerate(function)(x), function(x))
    else:
        assert_same(function, x)


@pytest.mark.parametrize("name", POOLINGS)
def test_sum_over_windows(name):
    shape, window, strides, padding = POOLINGS[name]
    x = random(*shape)

    def function(x):
        return lax.reduce_window(x, 0.0, lax.add, window, strides, padding)

    assert rules_of(function, x) == ["avg_pool"]
    assert_same(function, x)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("side", [3, 5, 7])
def test_counts_in_windows_stay_whole(side, dtype):
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(np.random.default_rng(0).integers(0, 2, (1, 32, 32, 1)), dtype)

        def count(x):
            zero = np.zeros((), x.dtype)
            return lax.reduce_window(x, zero, lax.add, (1, side, side, 1), (1,) * 4, "SAME")

        for function in (accelerate(count), jax.jit(accelerate(count))):
            np.testing.assert_array_equal(function(x), count(x))


def test_a_dilated_max_pool_gets_the_gradient_that_jax_refuses(float64):
    def function(x):
        return lax.reduce_window(
            x, -jnp.inf, lax.max, (1, 2), (1, 1), "VALID", window_dilation=(1, 2)
        )

    x = jnp.asarray([[1.0, 5.0, 2.0, 3.0, 9.0]])
    np.testing.assert_array_equal(accelerate(function)(x), [[2.0, 5.0, 9.0]])
    dx = jax.grad(lambda x: accelerate(function)(x).sum())(x)
    np.testing.assert_array_equal(dx, [[0.0, 1.0, 1.0, 0.0, 1.0]])


POOLINGS_LEFT_ALONE = {
    "not real floating": lambda x: lax.reduce_window(
        x.astype("int32"), np.int32(np.iinfo("int32").min), lax.max, (1, 2), (1, 1), "VALID"
    ),
    "float8_e4m3fn, not real floating of 16 bits": lambda x: lax.reduce_window(
        x.astype("float8_e4m3fn"),
        jnp.finfo("float8_e4m3fn").min,
        lax.max,
        (1, 2),
        (1, 1),
        ((0, 0), (1, 1)),
    ).astype("float32"),
    "a minimum": lambda x: lax.reduce_window(x, jnp.inf, lax.min, (1, 2), (1, 1), "VALID"),
    "input is dilated": lambda x: lax.reduce_window(
        x, -jnp.inf, lax.max, (1, 2), (1, 1), "VALID", base_dilation=(1, 2)
    ),
    "neither a maximum nor a sum": lambda x: lax.reduce_window(
        x, np.float32(1), lax.mul, (1, 2), (1, 1), "VALID"
    ),
}


@pytest.mark.parametrize("reason", POOLINGS_LEFT_ALONE)
def test_pooling_without_a_rule_stays_bit_equal(reason):
    function, x = POOLINGS_LEFT_ALONE[reason], random(2, 7, dtype="float32")
    (entry,) = explain(function, x).entries
    assert reason in entry.reason
    np.testing.assert_array_equal(accelerate(function)(x), function(x))


# ---------------------------------------------------------------- the block


def max_pool_2d(x, axes=(1, 2), size=2):
    window = [size if axis in axes else 1 for axis in range(x.ndim)]
    return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")


def nhwc(x, w, b):
    z = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC)
    return max_pool_2d(jax.nn.relu(z + b))


def haiku_like(x, w, b):
    z = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC)
    return max_pool_2d(jax.nn.relu(z + jnp.broadcast_to(b, z.shape)))


def without_bias(x, w, b):
    z = lax.conv_general_dilated(x, w, (2, 1), "VALID", dimension_numbers=NHWC)
    return max_pool_2d(jax.nn.relu(z))


def pooled_first(x, w, b):
    z = lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=NHWC) + b
    return jax.nn.relu(max_pool_2d(z))


def nchw(x, w, b):
    x, w = x.transpose(0, 3, 1, 2), w.transpose(3, 2, 0, 1)
    z = lax.conv_general_dilated(x, w, (1, 1), "SAME") + b[:, None, None]
    return max_pool_2d(jax.nn.relu(z), axes=(2, 3))


def one_example_at_a_time(x, w, b):
    def one(x):
        z = nchw_one(x, w) + b[:, None, None]
        z = jnp.moveaxis(z, 0, -1)
        return jnp.moveaxis(max_pool_2d(z[None], axes=(1, 2))[0], -1, 0)

    return jax.nn.relu(jax.vmap(one)(x.transpose(0, 3, 1, 2)))


def nchw_one(x, w):
    return lax.conv_general_dilated(x[None], w.transpose(3, 2, 0, 1), (1, 1), "SAME")[0]


BLOCKS = [nhwc, haiku_like, without_bias, pooled_first, nchw, one_example_at_a_time]


@pytest.mark.parametrize("channels", [5, 1])
@pytest.mark.parametrize("block", BLOCKS)
def test_block(block, channels):
    args = random(2, 6, 7, 3), random(3, 3, 3, channels, seed=1), random(channels, seed=2)
    assert rules_of(block, *args) == ["conv_relu_max_pool"]
    assert_same(block, *args)


def read_twice(x, w, b):
    z = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC) + b
    return max_pool_2d(jax.nn.relu(z)) + z[:, ::2, ::2][:, :3, :3]


def maximum_for_relu(x, w, b):
    z = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC) + b
    return max_pool_2d(jnp.maximum(z, 0))


def bias_a_place(x, w, b):
    z = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC)
    return max_pool_2d(jax.nn.relu(z + jnp.arange(7, dtype=z.dtype)[:, None]))


def bias_an_example(x, w, b):
    z = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC)
    return max_pool_2d(jax.nn.relu(z + b[:2, None, None, None]))


def other_derivative(x, w, b):
    @jax.custom_jvp
    def relu(x):
        return jnp.maximum(x, 0)

    relu.defjvp(lambda x, dx: (relu(*x), dx[0] * 3))
    z = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC) + b
    return max_pool_2d(relu(z))


def pooled_over_channels(x, w, b):
    z = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC) + b
    return max_pool_2d(jax.nn.relu(z), axes=(1, 3))


NO_BLOCKS = [
    read_twice,
    maximum_for_relu,
    bias_a_place,
    bias_an_example,
    other_derivative,
    pooled_over_channels,
]


@pytest.mark.parametrize("block", NO_BLOCKS)
def test_what_only_looks_like_a_block(block):
    args = random(2, 6, 7, 3), random(3, 3, 3, 4, seed=1), random(4, seed=2)
    if block is maximum_for_relu:  # zeros in, so that the derivative at 0 counts
        args = (jnp.zeros_like(args[0]), args[1], jnp.zeros_like(args[2]))
    assert rules_of(block, *args) == ["conv", "max_pool"]
    assert_same(block, *args)


def test_ties_after_relu_go_where_jax_sends_them(float64):
    # Whole numbers tie often, zeros most of all.
    rng = np.random.default_rng(3)
    args = [
        jnp.asarray(rng.integers(-2, 3, shape), float) for shape in [(4, 8, 8, 2), (3, 3, 2, 3), 3]
    ]
    assert_same(nhwc, *args)
    assert_same(pooled_first, *args)


@pytest.mark.parametrize(("window", "rules"), [((2, 2), ["conv", "max_pool"]), ((1, 2), [])])
def test_ties_in_a_convolution_whose_axes_are_exchanged(float64, window, rules):
    """The first of several largest is another one when axes are pooled in another order."""

    def exchanged(x, w):
        z = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=(*NHWC[:2], "NWHC"))
        strides = (1, *window, 1)
        return lax.reduce_window(jax.nn.relu(z), -np.inf, lax.max, strides, strides, "VALID")

    x = random(2, 6, 8, 2).round()
    w = random(3, 3, 2, 3, seed=1).round()
    assert rules_of(exchanged, x, w) == (rules or ["conv_relu_max_pool"])
    assert_same(exchanged, x, w)


# ---------------------------------------------------------------- where operations stand


@jax.custom_vjp
def anothers_rule(x, w):
    return convolve(x, w)


def _anothers_fwd(x, w):
    return convolve(x, w), (x, w)


def _anothers_bwd(residuals, dy):
    _, back = jax.vjp(convolve, *residuals)
    return tuple(2 * d for d in back(dy))


def convolve(x, w):
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC)


anothers_rule.defvjp(_anothers_fwd, _anothers_bwd)


@jax.custom_jvp
def anothers_tangent(x, w):
    return convolve(x, w)


anothers_tangent.defjvp(
    lambda p, t: (convolve(*p), 3 * (convolve(t[0], p[1]) + convolve(p[0], t[1])))
)


def pooled(x, w):
    return max_pool_2d(jnp.sin(convolve(x, w)))


PLACES = {
    "jit": jax.jit(pooled),
    "jit in jit": jax.jit(lambda x, w: jax.jit(pooled)(x, w) + 1),
    "scan": lambda x, w: lax.scan(lambda c, _: (convolve(c, w), pooled(c, w)), x, None, length=2)[
        1
    ],
    "fori": lambda x, w: lax.fori_loop(0, 2, lambda _, c: convolve(c, w), x),
    "cond": lambda x, w: lax.cond(x.sum() > 0, pooled, lambda x, w: max_pool_2d(x), x, w),
    "switch": lambda x, w: lax.switch(1, [lambda x, w: x, convolve], x, w),
    "map": lambda x, w: lax.map(lambda y: pooled(y[None], w)[0], x),
    "checkpoint": jax.checkpoint(pooled),
    "dots saved": jax.checkpoint(pooled, policy=jax.checkpoint_policies.dots_saveable),
    "vmap": lambda x, w: jax.vmap(lambda y: pooled(y[None], w)[0])(x),
    "vmap of kernels": lambda x, w: jax.vmap(pooled, (None, 0))(x, jnp.stack([w, 2 * w])),
    "vmap of both": lambda x, w: jax.vmap(pooled)(x[:, None], jnp.stack([w, 2 * w])),
    "anothers rule": anothers_rule,
    "anothers tangent": anothers_tangent,
    "closure": lambda x, w: jax.jit(lambda y: pooled(y, w))(x),
    "nested": lambda x, w: lax.scan(
        lambda c, _: (jax.jit(jax.checkpoint(anothers_rule))(c, w), None), x, None, length=2
    )[0],
}


@pytest.mark.parametrize("place", PLACES)
def test_places(place):
    args = random(2, 6, 6, 3), random(3, 3, 3, 3, seed=1) / 3
    found = [rule for rule in rules_of(PLACES[place], *args) if rule]
    assert "conv" in found
    # Nothing is left in the traced program but what the rules themselves are made of.
    assert_same(PLACES[place], *args)


def test_while_keeps_its_number_of_rounds(float64):
    def function(x, w):
        return lax.while_loop(lambda c: convolve(c, w).max() < 9, lambda c: convolve(c, w), x)

    args = random(2, 6, 6, 3), random(3, 3, 3, 3, seed=1)
    assert rules_of(function, *args) == ["conv", "conv"]
    assert_close(accelerate(function)(*args), function(*args), terms=200)


def test_both_halves_of_anothers_rule_are_accelerated():
    args = random(2, 6, 6, 3), random(3, 3, 3, 3, seed=1)

    def traced(function):
        loss = jax.grad(lambda *a: function(*a).sum(), argnums=(0, 1))
        return str(jax.make_jaxpr(loss)(*args))

    assert "jaxbp_conv" not in traced(anothers_rule)
    assert "jaxbp_conv_kernel_grad" in traced(accelerate(anothers_rule))


@pytest.mark.parametrize(
    "transform",
    [
        lambda f: jax.jit(f),
        lambda f: jax.checkpoint(f),
        lambda f: lambda x, w: jax.vmap(f, (0, None))(x[:, None], w),
        lambda f: lambda x, w: lax.scan(lambda c, y: (c, f(y, w)), 0, x[:, None])[1],
        lambda f: accelerate(f),
    ],
    ids=["jit", "checkpoint", "vmap", "scan", "accelerate"],
)
def test_an_accelerated_function_under_transformations(transform):
    args = random(2, 6, 6, 3), random(3, 3, 3, 3, seed=1)
    fast, slow = value_and_grads((transform(accelerate(pooled)), transform(pooled)), *args)
    assert_trees_close(fast, slow, terms=2000)


def test_second_order(float64):
    args = random(1, 4, 4, 1), random(2, 2, 1, 1, seed=1)
    gradients = [
        jax.grad(lambda x, w, f=f: jnp.sum(f(x, w) ** 3), argnums=1)
        for f in (accelerate(pooled), pooled)
    ]
    assert_trees_close(*value_and_grads(gradients, *args), terms=2000)


def test_a_gradient_taken_already(float64):
    args = random(2, 6, 6, 3), random(3, 3, 3, 3, seed=1), random(3, seed=2)
    gradient = jax.grad(lambda *a: (nhwc(*a) ** 2).sum(), argnums=(0, 1, 2))
    found = rules_of(gradient, *args)
    assert sorted(found) == ["conv", "conv", "conv_kernel_grad", "max_pool", "max_pool_grad"]
    fast, slow = jax.jit(accelerate(gradient))(*args), jax.jit(gradient)(*args)
    assert_trees_close(fast, slow, terms=2000)


def test_forward_mode_raises_jax_s_own_error():
    args = random(2, 6, 6, 3), random(3, 3, 3, 3, seed=1)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(accelerate(pooled), args, args)


@pytest.mark.parametrize("check", [True, False])
def test_shard_map(check):
    mesh = jax.make_mesh((2,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.shard_map(
        pooled, mesh=mesh, in_specs=(P("i"), P()), out_specs=P("i"), check_vma=check
    )
    args = random(4, 6, 6, 3), random(3, 3, 3, 3, seed=1)
    assert rules_of(spread, *args) == ["conv", "max_pool"]
    assert_same(spread, *args)
    inside = jax.shard_map(
        accelerate(pooled), mesh=mesh, in_specs=(P("i"), P()), out_specs=P("i"), check_vma=check
    )
    assert_trees_close(*value_and_grads((inside, spread), *args), terms=2000)


# ---------------------------------------------------------------- what must not change


def test_trees_keywords_static_arguments_and_results():
    def step(params, *, x, train, name="step"):
        assert train is True
        y = pooled(x, params["w"])
        return {"loss": y.sum(), "name": name, "none": None, "train": train, "x": x}

    params, x = {"w": random(3, 3, 3, 3)}, random(2, 6, 6, 3)
    result = accelerate(step)(params, x=x, train=True)
    assert (result["name"], result["none"], result["train"]) == ("step", None, True)
    np.testing.assert_array_equal(result["x"], x)

    def loss(*a, **k):
        return accelerate(step)(*a, **k)["loss"]

    jitted = jax.jit(jax.grad(loss), static_argnames=("train", "name"))
    grads = jitted(params, x=x, train=True)
    right = jax.grad(lambda w: pooled(x, w).sum())(params["w"])
    assert_close(grads["w"], right, terms=200)


def test_name_docstring_and_signature_are_kept():
    def step(params, x, *, train: bool = False):
        """Step."""

    fast = accelerate(step)
    assert (fast.__name__, fast.__doc__) == ("step", "Step.")
    assert inspect.signature(fast) == inspect.signature(step)
    accelerate(functools.partial(step, 1))  # which has no name


def test_operations_without_rules_stay_bit_equal():
    def function(x):
        y = jnp.tanh(x @ x.T)
        return jax.nn.softmax(y / y.std()), jnp.cumsum(x), jnp.fft.fft(x), x.astype(int)

    x = random(6, 6)
    assert str(jax.make_jaxpr(accelerate(function))(x)) == str(jax.make_jaxpr(function)(x))
    for ours, right in zip(accelerate(function)(x), function(x), strict=True):
        np.testing.assert_array_equal(ours, right)


def test_effects_and_their_order_are_kept(capsys):
    def function(x, w):
        for name in "ab":
            jax.debug.print(name + " {x}", x=x[0, 0, 0, 0], ordered=True)
            x = convolve(x, w)
        return x

    jax.jit(accelerate(function))(jnp.ones((1, 3, 3, 1)), jnp.ones((1, 1, 1, 1)))
    jax.effects_barrier()
    assert re.findall("[ab]", capsys.readouterr().out) == ["a", "b"]


def test_a_mutable_array_of_the_function_s_own():
    """Met again, its operations get no jit of their own, which cannot return what it makes."""

    def function(x):
        cell = jax.new_ref(x)
        cell[...] = cell[...] + 1
        return cell[...]

    fast = accelerate(function)
    assert [float(fast(jnp.float32(2))) for _ in range(3)] == [3, 3, 3]


def test_names_reach_the_compiled_program():
    def function(x, w):
        with jax.named_scope("stem"):
            return convolve(x, w)

    args = random(2, 6, 6, 3), random(3, 3, 3, 3, seed=1)
    text = jax.jit(accelerate(function)).lower(*args).as_text(debug_info=True)
    assert "stem/jit(jaxbp_conv)" in text.replace("pjit", "jit")


def test_donation_and_shardings_are_kept():
    step = jax.jit(lambda x, w: convolve(x, w), donate_argnums=0)
    (equation,) = jax.make_jaxpr(accelerate(step))(
        random(2, 6, 6, 3), random(3, 3, 3, 3)
    ).jaxpr.eqns
    assert equation.params["donated_invars"] == (True, False)

    mesh = jax.make_mesh((2,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, P("i"))

    @jax.jit
    def constrained(x, w):
        return lax.with_sharding_constraint(convolve(x, w), sharding)

    y = jax.jit(accelerate(constrained))(random(2, 6, 6, 3), random(3, 3, 3, 3))
    assert y.sharding.is_equivalent_to(sharding, 4)

    y = accelerate(lambda x: jax.device_put(x, jax.devices()[1]) + 1)(random(2))
    assert y.devices() == {jax.devices()[1]}


def test_keywords_of_any_name_and_numpy_s_integers_reach_the_function():
    x, w = random(1, 1, 4, 4), random(1, 1, 2, 2)
    padding = np.array([[1, 0], [0, 1]])
    accelerated = accelerate(lambda x, w, function, fn: lax.conv_general_dilated(x, w, (1, 1), fn))
    y = accelerated(x, w, function=jnp.sin, fn=padding)
    assert_close(y, lax.conv_general_dilated(x, w, (1, 1), padding), terms=4)
    assert explain(lambda x, fn: fn(x), x, fn=jnp.sin).entries == ()


def test_traced_and_compiled_once():
    traces = 0

    @jax.jit
    def inner(x, w):
        nonlocal traces
        traces += 1
        return convolve(x, w)

    args = random(2, 6, 6, 3), random(3, 3, 3, 3)
    step = jax.jit(accelerate(inner))
    for _ in range(3):
        step(*args)
        accelerate(inner)(*args)
    assert traces == 1
    assert step._cache_size() == 1


def test_an_operation_is_differentiated_twice_at_most_however_often_it_is_traced():
    derivatives = 0

    def jvp(primals, tangents):
        nonlocal derivatives
        derivatives += 1
        return double.bind(*primals), double.bind(*tangents)

    double = Primitive("double")
    double.def_abstract_eval(lambda x: x)
    ad.primitive_jvps[double] = jvp
    for _ in range(3):
        loss = accelerate(lambda x: double.bind(double.bind(x)).sum())
        jax.eval_shape(lambda x, loss=loss: jax.linearize(loss, x)[0], jnp.ones(3))
    assert derivatives == 2  # bare when it is first met, then in a jit that JAX remembers


def test_parameters_that_are_equal_and_differ():
    quotient = Primitive("quotient")
    quotient.def_abstract_eval(lambda x, by: x)
    quotient.def_impl(lambda x, by: x / by)
    lowering = mlir.lower_fun(lambda x, by: x / by, multiple_results=False)
    mlir.register_lowering(quotient, lowering)
    for by in (0.0, 0.0, -0.0, -0.0):
        y = accelerate(lambda x, by=by: quotient.bind(x, by=by))(jnp.ones(1))
        np.testing.assert_array_equal(y, np.copysign(np.inf, by))


@pytest.mark.parametrize("context", [contextlib.nullcontext, jax.disable_jit])
def test_operations_without_rules_differentiate_as_they_did(context):
    def function(x):
        y = jnp.where(x > 0, jnp.tanh(x @ x.T), lax.integer_pow(x, 3)) * 2
        return (jax.nn.log_softmax(y)[0] + jnp.sort(lax.cumsum(y), axis=0)).sum()

    x = random(6, 6)
    with context():
        assert_close(jax.grad(accelerate(function))(x), jax.grad(function)(x), terms=50)


def test_own_rules_are_left_alone():
    def function(x, w):
        return conv(x, w)

    args = random(2, 6, 6, 3), random(3, 3, 3, 3)
    (entry,) = explain(function, *args).entries
    assert entry.reason == "it is a rule of jaxbp already"
    assert str(jax.make_jaxpr(accelerate(function))(*args)) == str(jax.make_jaxpr(function)(*args))


def test_a_package_beside_ours_whose_name_begins_as_ours_is_not_ours():
    def primal(x, w):
        return convolve(x, w)

    beside = Path(jaxbp.__file__).parent.parent / "jaxbp_models" / "layers.py"
    primal.__code__ = primal.__code__.replace(co_filename=str(beside))
    theirs = jax.custom_vjp(primal)
    theirs.defvjp(_anothers_fwd, _anothers_bwd)
    assert rules_of(theirs, random(2, 6, 6, 3), random(3, 3, 3, 3)) == ["conv"]


class Unregistered:
    """Unknown to JAX as a container of arrays."""

    def __init__(self, y):
        self.y = y


def test_what_is_no_pytree_passes_through():
    given = Unregistered(jnp.ones(3))
    assert accelerate(lambda x, thing: thing)(jnp.ones(3), given) is given
    jax.jit(lambda x: accelerate(lambda thing: thing)(Unregistered(x)).y)(jnp.ones(3))
    made = accelerate(lambda x: Unregistered({1: "no keys", "a": "to sort"}))(jnp.ones(3))
    assert made.y == {1: "no keys", "a": "to sort"}


def test_bad_input_is_the_function_s_own_business():
    def function(x):
        return x if x.sum() > 0 else -x

    with pytest.raises(jax.errors.ConcretizationTypeError):
        accelerate(lambda x: function(x + 1))(jnp.ones(3))
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        accelerate(function)()
    with pytest.raises(TypeError, match="returns a Unregistered, which holds arrays"):
        accelerate(lambda x: Unregistered(x + 1))(jnp.ones(3))
    with pytest.raises(TypeError, match="accelerate: fn must be a callable, got 3"):
        accelerate(3)
    with pytest.raises(TypeError, match="explain: fn must be a callable, got None"):
        explain(None)


# ---------------------------------------------------------------- explain


def test_explain_says_where_and_why(capsys):
    def model(x, w):
        y = pooled(x, w)  # the line that explain must find is the one in convolve
        return lax.conv_general_dilated(
            y, w, (1, 1), "SAME", (1, 1), (1, 1), NHWC, precision=("highest", "default")
        )

    report = explain(jax.jit(model), random(2, 6, 6, 3), random(3, 3, 3, 3))
    line = inspect.getsourcelines(convolve)[1] + 1
    convolution, pooling = report.replaced
    assert convolution.what == "3×3 convolution of NSSC, 3→3"
    assert convolution.source.endswith(f"test_accelerate.py:{line}")
    assert convolution.inside == "jit model"
    assert pooling.what == "2×2 max-pool, stride 2×2"
    (left,) = report.left_alone
    assert "HIGHEST" in left.reason
    printed = capsys.readouterr().out
    assert printed == f"{report}\n"
    assert repr(report) == "<2 replaced, 1 left alone>"


SUMS = {  # forward, input gradient, kernel gradient, by lowering's names
    "conv": ("conv", "conv_input_grad", "conv_kernel_grad"),
    "conv_transpose": ("conv_input_grad", "conv", "conv_kernel_grad"),
}


@pytest.mark.parametrize("rule", SUMS)
def test_explain_says_how_each_sum_is_taken(monkeypatch, capsys, rule):
    """What lowering chooses when the gradient is traced."""
    options = {"window_strides": (2, 2)} if rule == "conv" else {"lhs_dilation": (2, 2)}
    function = convolution({**options, "padding": [(2, 1)] * 2, "dimension_numbers": NHWC})
    args = random(8, 33, 31, 32, dtype="float32"), random(3, 3, 32, 48, dtype="float32")
    (entry,) = explain(function, *args).entries
    printed = capsys.readouterr().out
    assert [s.sum for s in entry.sums] == ["forward", "input gradient", "kernel gradient"]
    chosen, choose = {}, choice.choose

    def listening(operation, *case):
        row, forced = choose(operation, *case)
        chosen.setdefault(operation, row.name)  # a strategy may ask for the sums of its parts
        return row, forced

    monkeypatch.setattr(choice, "choose", listening)
    jax.make_jaxpr(jax.grad(lambda *a: accelerate(function)(*a).sum(), (0, 1)))(*args)
    assert [s.name for s in entry.sums] == [chosen[operation] for operation in SUMS[rule]]
    for one in entry.sums:
        assert one.why
        assert one.why in printed
        assert one.name not in one.not_faster


def test_explain_tells_the_sums_apart_and_a_forced_one():
    rules = {"conv": {"window_strides": (2, 2)}, "conv_transpose": {"lhs_dilation": (2, 2)}}
    args = random(2, 7, 7, 3), random(3, 3, 3, 4)
    for place, options in zip((1, 0), rules.values(), strict=True):
        function = convolution({**options, "dimension_numbers": NHWC})
        with lowering.use("phases"):  # which only input gradients have
            (entry,) = explain(function, *args).entries
        assert [s.name == "phases" for s in entry.sums] == [i == place for i in range(3)]
        assert entry.sums[place].why == "forced by lowering.use"


def test_explain_of_sums_that_are_not_a_convolution_s():
    """A gradient taken already is one sum; patches and poolings are none, nor is what stays."""
    x, w, b = random(2, 6, 6, 3), random(3, 3, 3, 4), random(4)
    gradient = jax.grad(lambda w: nhwc(x, w, b).sum())
    by_rule = {e.rule: [s.sum for s in e.sums] for e in explain(gradient, w).entries}
    three = ["forward", "input gradient", "kernel gradient"]
    assert by_rule["conv"] == three
    assert by_rule["conv_kernel_grad"] == ["kernel gradient"]
    assert by_rule["max_pool"] == []
    (block,) = explain(nhwc, x, w, b).entries
    assert [s.sum for s in block.sums] == three


def test_a_rule_placed_already_has_the_line_of_its_caller(capsys):
    (entry,) = explain(
        lambda x, w: accelerate(convolve)(x, w), random(2, 6, 6, 3), random(3, 3, 3, 3)
    ).entries
    line = inspect.getsourcelines(convolve)[1] + 1
    assert entry.reason == "it is a rule of jaxbp already"
    assert entry.source.endswith(f"test_accelerate.py:{line}")


def test_explain_with_nothing_to_say():
    assert "nothing" in str(explain(lambda x: x + 1, jnp.ones(3)))


def test_explain_needs_shapes_only():
    x = jax.ShapeDtypeStruct((2, 6, 6, 3), jnp.float32)
    w = random(3, 3, 3, 3, dtype="float32")
    (entry,) = explain(lambda x, w: convolve(x + 1, w), x, w=w).entries
    assert entry.rule == "conv"


def test_float64_without_its_mode_is_left_alone():
    with jax.enable_x64(True):
        args = random(2, 6, 6, 3, dtype="float64"), random(3, 3, 3, 3, dtype="float64")
    with jax.enable_x64(False):
        (entry,) = explain(convolve, *args).entries
        assert "64-bit mode off" in entry.reason
        np.testing.assert_array_equal(accelerate(convolve)(*args), convolve(*args))


def test_explain_lists_what_stands_where_no_rule_can():
    def solved(b):
        def apply(x):
            return x + 0.1 * convolve(x, jnp.ones((3, 3, 1, 1), x.dtype))

        def solve(apply, b):
            return lax.fori_loop(0, 9, lambda _, x: x + b - apply(x), b)

        return lax.custom_linear_solve(apply, b, solve, symmetric=True)

    entries = explain(solved, random(1, 4, 4, 1)).entries
    assert entries
    assert {e.rule for e in entries} == {""}
    assert all("custom_linear_solve may be transposed" in e.reason for e in entries)
