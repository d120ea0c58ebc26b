"""Right when called plainly; wrong inside a transform, at the second order, or the second time."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap

from tests.verify.corpus.case import Family, normal, rule, uniform

cases = Family("transforms")


def is_traced(x):
    return isinstance(x, jax.core.Tracer)


# Under jit -------------------------------------------------------------------------------------


def swish(x):
    return x * jax.nn.sigmoid(x)


def swish_bwd(x, dy):
    s = jax.nn.sigmoid(x)
    return (dy * (s + x * s * (1 - s)),)


def small(rng):
    return (normal(rng, 3, 4),)


def branch_on_cotangent(x, dy):
    d = swish_bwd(x, dy)[0]
    return (d if dy.sum() > 0 else 1.0 * d,)  # a Python branch on a traced number


def seen_concrete(x, dy):
    host = np.asarray(x)  # refused for a traced x
    return swish_bwd(jnp.asarray(host), dy)


cases.right("swish", swish, lambda x: (swish(x), x), swish_bwd, small)
cases.wrong(
    "jit-fast-path",
    "x",
    "jit",
    "a path for traced values lacks a term",
    bwd=lambda x, dy: (dy * jax.nn.sigmoid(x),) if is_traced(dy) else swish_bwd(x, dy),
    shows="jit",
)
cases.wrong(
    "jit-fast-path-forward",
    (),
    "jit",
    "the forward has another value when traced",
    forward=lambda x: swish(x) + 1 if is_traced(x) else swish(x),
    fwd=lambda x: (swish(x) + 1 if is_traced(x) else swish(x), x),
    shows="jit",
)
cases.wrong(
    "jit-python-branch",
    (),
    "jit",
    "the backward branches in Python on a number",
    bwd=branch_on_cotangent,
    shows="jit",
)
cases.wrong(
    "jit-numpy-residual",
    (),
    "jit",
    "the backward turns its residual into a NumPy array",
    bwd=seen_concrete,
    shows="jit",
)


def remembers_constant():
    """The rule closes over what it saw at the first call."""
    seen = []

    def fwd(x):
        if not seen:
            seen.append(None if is_traced(x) else np.asarray(x))
        return swish(x), x

    def bwd(x, dy):
        kept = seen[0]
        return swish_bwd(x if kept is None or kept.shape != x.shape else kept.astype(x.dtype), dy)

    return rule(swish, fwd, bwd)


cases.wrong(
    "state-first-input",
    (),
    ("nondeterministic", "jit"),
    "the residual is that of the first call",
    make=remembers_constant,
    shows="state",
)


def side_channel():
    """The residual goes through a Python variable instead of the residuals."""
    kept = {}

    def fwd(x):
        kept["x"] = x
        return swish(x), None

    return rule(swish, fwd, lambda _, dy: swish_bwd(kept["x"], dy))


cases.wrong(
    "state-side-channel",
    (),
    ("nondeterministic", "jit", "scan", "remat"),
    "the residual goes through a global: a second call in between overwrites it, "
    "and a traced one leaks",
    make=side_channel,
    shows="interleaved",
)


# State -----------------------------------------------------------------------------------------


def counts_calls(change):
    """`change(d, call number)` of the right answer."""

    def make():
        calls = [0]

        def bwd(x, dy):
            calls[0] += 1
            return (change(swish_bwd(x, dy)[0], calls[0]),)

        return rule(swish, lambda x: (swish(x), x), bwd)

    return make


cases.wrong(
    "state-every-second-call",
    (),
    "nondeterministic",
    "every second call has the sign turned",
    make=counts_calls(lambda d, n: -d if n % 2 == 0 else d),
    shows="state",
)
cases.wrong(
    "state-decaying",
    (),
    "nondeterministic",
    "the gradient fades with the calls",
    make=counts_calls(lambda d, n: d / n),
    shows="state",
)
cases.wrong(
    "state-warm-up",
    (),
    "nondeterministic",
    "the first call is right, all later ones doubled",
    make=counts_calls(lambda d, n: d if n == 1 else 2 * d),
    shows="state",
)


def noisy_bwd():
    generator = np.random.default_rng(0)

    def bwd(x, dy):
        noise = jnp.asarray(generator.normal(size=x.shape), x.dtype)
        return (swish_bwd(x, dy)[0] * (1 + 0.1 * noise),)

    return rule(swish, lambda x: (swish(x), x), bwd)


def noisy_forward():
    generator = np.random.default_rng(0)

    def forward(x):
        return swish(x) * float(1 + 0.1 * generator.normal())

    return rule(forward, lambda x: (forward(x), x), swish_bwd)


def keeps_momentum():
    velocity = {}

    def bwd(x, dy):
        d = swish_bwd(x, dy)[0]
        before = velocity.get(x.shape)
        velocity[x.shape] = None if is_traced(d) else np.asarray(d)
        return (d if before is None else d + 0.9 * jnp.asarray(before, d.dtype),)

    return rule(swish, lambda x: (swish(x), x), bwd)


cases.wrong(
    "state-numpy-noise",
    (),
    "nondeterministic",
    "NumPy noise on the gradient",
    make=noisy_bwd,
    shows="state",
)
cases.wrong(
    "state-numpy-noise-forward",
    (),
    ("nondeterministic", "fwd-value"),
    "NumPy noise on the value",
    make=noisy_forward,
    shows="state-value",
)
cases.wrong(
    "state-momentum",
    (),
    "nondeterministic",
    "the last gradient is added to this one",
    make=keeps_momentum,
    shows="state",
)


# Under vmap ------------------------------------------------------------------------------------


def project(x, w):
    return x @ w


def project_bwd(residuals, dy):
    x, w = residuals
    return dy @ w.T, x.T @ dy


def batched_by(batching):
    """The kernel gradient as a `custom_vmap` function with this batching rule."""

    @custom_vmap
    def weight_grad(x, dy):
        return x.T @ dy

    weight_grad.def_vmap(batching)
    return lambda res, dy: (dy @ res[1].T, weight_grad(res[0], dy))


def with_axis(size, in_batched, x, dy):
    """Both arguments with the mapped axis in front."""
    return [
        a if is_batched else jnp.broadcast_to(a, (size, *a.shape))
        for a, is_batched in zip((x, dy), in_batched, strict=True)
    ]


def right_batching(size, in_batched, x, dy):
    x, dy = with_axis(size, in_batched, x, dy)
    return jnp.einsum("bni,bno->bio", x, dy), True


def summed_batching(size, in_batched, x, dy):
    x, dy = with_axis(size, in_batched, x, dy)
    return jnp.einsum("bni,bno->io", x, dy), False


def reversed_batching(size, in_batched, x, dy):
    x, dy = with_axis(size, in_batched, x, dy)
    return jnp.einsum("bni,bno->bio", x, dy)[::-1], True


def averaged_batching(size, in_batched, x, dy):
    x, dy = with_axis(size, in_batched, x, dy)
    d = jnp.einsum("bni,bno->bio", x, dy)
    return jnp.broadcast_to(d.mean(0), d.shape), True


def careless_batching(size, in_batched, x, dy):
    return jnp.einsum("bni,bno->bio", x, dy), True  # fails where only one is batched


def first_batching(size, in_batched, x, dy):
    x, dy = with_axis(size, in_batched, x, dy)
    return x[0].T @ dy[0], False


def callback_bwd(residuals, dy):
    """NumPy on the host; `.T` and the sum see the mapped axis that vmap puts in front."""
    x, w = residuals
    shapes = (jax.ShapeDtypeStruct(x.shape, x.dtype), jax.ShapeDtypeStruct(w.shape, w.dtype))

    def on_host(x, w, dy):
        x, w, dy = np.asarray(x), np.asarray(w), np.asarray(dy)
        dx = np.einsum("...no,...io->...ni", dy, w)
        dw = np.einsum("...ni,...no->...io", x, dy)
        return dx.astype(x.dtype), (
            np.broadcast_to(dw.mean(tuple(range(dw.ndim - 2))), dw.shape)
        ).astype(w.dtype)

    return jax.pure_callback(on_host, shapes, x, w, dy, vmap_method="broadcast_all")


def matrices(rng):
    return normal(rng, 3, 2), normal(rng, 2, 4)


cases.right("project", project, lambda x, w: (project(x, w), (x, w)), project_bwd, matrices)
for _name, _batching, _why in (
    ("summed", summed_batching, "the batching rule sums over the mapped axis"),
    ("reversed", reversed_batching, "the batching rule reverses the mapped axis"),
    ("averaged", averaged_batching, "the batching rule averages over the mapped axis"),
    ("careless", careless_batching, "the batching rule takes every argument for mapped"),
    ("first", first_batching, "the batching rule takes the first entry for all"),
):
    cases.wrong(f"vmap-{_name}", "w", "vmap", _why, bwd=batched_by(_batching), shows="vmap")
cases.wrong(
    "vmap-host-callback",
    "w",
    "vmap",
    "NumPy on the host averages over the axes in front, which vmap adds",
    bwd=callback_bwd,
    shows="vmap",
)


@custom_vmap
def rowwise(x):
    return x / (1 + (x * x).sum())


@rowwise.def_vmap
def _(size, in_batched, x):
    return x / (1 + (x * x).sum()), True  # the sum over the mapped axis as well


def rowwise_bwd(x, dy):
    n = 1 + (x * x).sum()
    return (dy / n - 2 * x * (x * dy).sum() / n**2,)


cases.right(
    "rowwise",
    lambda x: x / (1 + (x * x).sum()),
    lambda x: (x / (1 + (x * x).sum()), x),
    rowwise_bwd,
    lambda rng: (normal(rng, 5),),
)
cases.wrong(
    "vmap-forward-sum",
    (),
    "vmap",
    "the forward sums over the mapped axis as well",
    forward=lambda x: rowwise(x),
    fwd=lambda x: (rowwise(x), x),
    shows="vmap",
)


# At the second order ---------------------------------------------------------------------------


def energy(x, w):
    return jnp.tanh(x @ w)


def energy_bwd(residuals, dy):
    x, w, y = residuals
    dz = dy * (1 - y * y)
    return dz @ w.T, x.T @ dz


cases.right(
    "tanh-layer",
    energy,
    lambda x, w: (energy(x, w), (x, w, energy(x, w))),
    energy_bwd,
    lambda rng: (normal(rng, 3, 2), normal(rng, 2, 3)),
)
cases.wrong(
    "second-weights-detached",
    "x",
    "second-order",
    "w is detached in dx",
    edit={0: lambda d, res, dy: (dy * (1 - res[2] ** 2)) @ lax.stop_gradient(res[1]).T},
    shows="second-order",
)
cases.wrong(
    "second-input-detached",
    "w",
    "second-order",
    "x is detached in dw",
    edit={1: lambda d, res, dy: lax.stop_gradient(res[0]).T @ (dy * (1 - res[2] ** 2))},
    shows="second-order",
)
cases.wrong(
    "second-cotangent-detached",
    "x",
    "second-order",
    "dy is detached in dx",
    edit={0: lambda d, res, dy: energy_bwd(res, lax.stop_gradient(dy))[0]},
    shows="second-order",
)
cases.wrong(
    "second-residual-detached",
    ("x", "w"),
    "second-order",
    "y is kept detached by fwd",
    fwd=lambda x, w: (energy(x, w), (x, w, lax.stop_gradient(energy(x, w)))),
    shows="second-order",
)


def bad_inner(y):
    """1 - y² with a wrong derivative of its own."""
    inner = jax.custom_vjp(lambda y: 1 - y * y)
    inner.defvjp(lambda y: (1 - y * y, y), lambda y, g: (-y * g,))
    return inner(y)


cases.wrong(
    "second-inner-rule",
    ("x", "w"),
    "second-order",
    "a helper of the backward has a wrong rule",
    bwd=lambda res, dy: ((dy * bad_inner(res[2])) @ res[1].T, res[0].T @ (dy * bad_inner(res[2]))),
    shows="second-order",
)
cases.wrong(
    "second-all-detached",
    ("x", "w"),
    "second-order",
    "all residuals are detached",
    bwd=lambda res, dy: energy_bwd(lax.stop_gradient(res), dy),
    shows="second-order",
)


# The value -------------------------------------------------------------------------------------


def affine(x, b):
    return x * x + b


def affine_bwd(x, dy):
    return 2 * x * dy, dy.sum(0)


def columns(rng):
    return normal(rng, 4, 3), normal(rng, 3)


cases.right("square-plus", affine, lambda x, b: (affine(x, b), x), affine_bwd, columns)
cases.wrong(
    "fwd-without-bias",
    (),
    "fwd-value",
    "fwd leaves the bias out",
    shows="fwd-value",
    fwd=lambda x, b: (x * x, x),
)
cases.wrong(
    "fwd-doubled",
    (),
    "fwd-value",
    "fwd returns twice the value",
    shows="fwd-value",
    fwd=lambda x, b: (2 * affine(x, b), x),
)
cases.wrong(
    "fwd-slightly-off",
    (),
    "fwd-value",
    "fwd is off by a part in a thousand",
    shows="fwd-value",
    fwd=lambda x, b: (affine(x, b) * 1.001, x),
)
cases.wrong(
    "fwd-bfloat16",
    (),
    ("fwd-value", "dtype"),
    "fwd returns bfloat16",
    shows="fwd-value",
    fwd=lambda x, b: (affine(x, b).astype(jnp.bfloat16).astype(x.dtype), x),
)
cases.wrong(
    "fwd-one-entry",
    (),
    "fwd-value",
    "one entry of fwd's value is another",
    shows="fwd-value",
    fwd=lambda x, b: (affine(x, b).at[1, 1].add(0.5), x),
)
cases.wrong(
    "fwd-other-residual-order",
    ("x",),
    ("missing-term", "swapped-arguments"),
    "fwd keeps the value where the backward reads x",
    fwd=lambda x, b: (affine(x, b), affine(x, b)),
)


def gelu_exact(x):
    return x * 0.5 * (1 + lax.erf(x * 0.7071067811865476))


def gelu_tanh(x):
    return x * 0.5 * (1 + jnp.tanh(0.7978845608028654 * (x + 0.044715 * x**3)))


cases.right(
    "gelu-referred",
    gelu_exact,
    lambda x: (gelu_exact(x), x),
    lambda x, dy: (jax.vjp(gelu_exact, x)[1](dy)[0],),
    small,
    "an explicit reference",
    reference=lambda x: jax.nn.gelu(x, approximate=False),
)
cases.wrong(
    "value-approximate",
    (),
    "value",
    "the tanh approximation against the exact gelu",
    forward=gelu_tanh,
    fwd=lambda x: (gelu_tanh(x), x),
    bwd=lambda x, dy: (jax.vjp(gelu_tanh, x)[1](dy)[0],),
    shows="value",
)
cases.wrong(
    "value-offset",
    (),
    "value",
    "the value is off by a constant, the gradient right",
    forward=lambda x: gelu_exact(x) + 0.001,
    fwd=lambda x: (gelu_exact(x) + 0.001, x),
    shows="value",
)


def softmax_rows(x):
    e = jnp.exp(x)
    return e / e.sum(-1, keepdims=True)


cases.right(
    "softmax-referred",
    softmax_rows,
    lambda x: (softmax_rows(x), softmax_rows(x)),
    lambda y, dy: (y * (dy - (y * dy).sum(-1, keepdims=True)),),
    small,
    "an explicit reference",
    reference=lambda x: jax.nn.softmax(x, -1),
)
cases.wrong(
    "value-wrong-axis",
    (),
    "value",
    "normalised over the other axis, with the right rule for it",
    forward=lambda x: softmax_rows(x.T).T,
    fwd=lambda x: (softmax_rows(x.T).T,) * 2,
    bwd=lambda y, dy: (y * (dy - (y * dy).sum(0, keepdims=True)),),
    shows="value",
)
cases.wrong(
    "value-unnormalised",
    (),
    "value",
    "not normalised, with the right rule for that",
    forward=lambda x: jnp.exp(x),
    fwd=lambda x: (jnp.exp(x),) * 2,
    bwd=lambda y, dy: (y * dy,),
    shows="value",
)


# Plain functions: autodiff itself is on trial --------------------------------------------------


def scaled_gradient(x):
    """(x - stop(x))·2 + stop(x): the value of x, the gradient of 2x."""
    return 2 * (x - lax.stop_gradient(x)) + lax.stop_gradient(x)


cases.right("plain-product", lambda x, w: jnp.sin(x) @ w, None, None, matrices, "no rule at all")
cases.right("plain-stop-free", lambda x: x * x, None, None, small, "no rule at all")
cases.wrong(
    "plain-gradient-scaled",
    "x",
    ("scale", "surrogate"),
    "stop_gradient tricks double the slope",
    make=lambda: lambda x: scaled_gradient(x) ** 2,
)
cases.wrong(
    "plain-detached-factor",
    "x",
    ("scale", "missing-term"),
    "one of two factors is detached",
    make=lambda: lambda x: x * lax.stop_gradient(x),
)
cases.right(
    "custom-jvp",
    lambda x: jnp.log1p(jnp.exp(x)),
    None,
    None,
    small,
    "a right custom_jvp",
    make=lambda: jvp_rule(lambda x: jnp.log1p(jnp.exp(x)), jax.nn.sigmoid),
)
cases.wrong(
    "custom-jvp-wrong",
    "x",
    "scale",
    "a custom_jvp with a factor too many",
    make=lambda: jvp_rule(lambda x: jnp.log1p(jnp.exp(x)), lambda x: 3 * jax.nn.sigmoid(x)),
)


def jvp_rule(forward, slope):
    made = jax.custom_jvp(forward)
    made.defjvp(lambda primals, tangents: (forward(*primals), slope(*primals) * tangents[0]))
    return made


# A rule deep inside a larger function ----------------------------------------------------------


def head(x, w):
    return (jnp.tanh(x) @ w).sum(-1)


def inside(bwd):
    """tanh with this backward, inside an otherwise plain function."""

    def make():
        hidden = rule(lambda x: jnp.tanh(x), lambda x: (jnp.tanh(x),) * 2, bwd)
        return lambda x, w: (hidden(x) @ w).sum(-1)

    return make


cases.right(
    "rule-inside",
    head,
    None,
    None,
    matrices,
    "a right rule inside a plain function",
    reference=head,
    make=inside(lambda y, dy: (dy * (1 - y * y),)),
)
cases.wrong(
    "rule-inside-wrong",
    "x",
    "missing-term",
    "tanh' is left out, deep inside",
    make=inside(lambda y, dy: (dy,)),
)
cases.wrong(
    "rule-inside-sign",
    "x",
    "sign",
    "a sign, deep inside",
    make=inside(lambda y, dy: (-dy * (1 - y * y),)),
)


def looped(x):
    def step(h, _):
        return jnp.sin(h) + x, None

    return lax.scan(step, x, None, length=3)[0]


def looped_with(slope):
    def make():
        sine = rule(lambda h: jnp.sin(h), lambda h: (jnp.sin(h), h), lambda h, dy: (slope(h) * dy,))

        def fn(x):
            return lax.scan(lambda h, _: (sine(h) + x, None), x, None, length=3)[0]

        return fn

    return make


cases.right(
    "rule-in-scan",
    looped,
    None,
    None,
    lambda rng: (uniform(rng, 4, low=0.1, high=1),),
    "a right rule in the body of a scan",
    reference=looped,
    make=looped_with(jnp.cos),
)
cases.wrong(
    "rule-in-scan-wrong",
    "x",
    "missing-term",
    "cos is left out, in a scan's body",
    make=looped_with(jnp.ones_like),
)
