"""Recurrences: sums in time, carries, and what a backward loop loses."""

import jax
import jax.numpy as jnp
from jax import lax

from tests.verify.corpus.case import Family, normal, uniform

cases = Family("scans")

cases.right(
    "cumsum",
    lambda x: jnp.cumsum(x, 0),
    lambda x: (jnp.cumsum(x, 0), None),
    lambda _, dy: (jnp.cumsum(dy[::-1], 0)[::-1],),
    lambda rng: (normal(rng, 6, 2),),
)
cases.wrong(
    "cumsum-not-reversed",
    "x",
    ("transposed", "flipped"),
    "the sum runs forwards again",
    edit={0: lambda d, _, dy: jnp.cumsum(dy, 0)},
)
cases.wrong(
    "cumsum-left-reversed",
    "x",
    "flipped",
    "not turned back after the sum",
    edit={0: lambda d, _, dy: d[::-1]},
)
cases.wrong(
    "cumsum-exclusive",
    "x",
    ("missing-term", "shifted"),
    "each step leaves its own term out",
    edit={0: lambda d, _, dy: d - dy},
)
cases.wrong(
    "cumsum-total",
    "x",
    "missing-term",
    "every step gets the total",
    edit={0: lambda d, _, dy: jnp.broadcast_to(dy.sum(0), dy.shape)},
)
cases.wrong(
    "cumsum-local",
    "x",
    "missing-term",
    "each step gets its own cotangent only",
    edit={0: lambda d, _, dy: dy},
)


def linear(a, x, h0):
    """h_t = a h_{t-1} + x_t, a[D], x[T, D], h0[D] -> h[T, D]."""

    def step(h, x_t):
        h = a * h + x_t
        return h, h

    return lax.scan(step, h0, x)[1]


def linear_bwd(residuals, dy):
    a, h0, h = residuals
    previous = jnp.concatenate([h0[None], h[:-1]])

    def step(dh, step_inputs):
        dy_t, h_before = step_inputs
        g = dy_t + dh
        return a * g, (g, g * h_before)

    dh0, (dx, da) = lax.scan(step, jnp.zeros_like(h0), (dy, previous), reverse=True)
    return da.sum(0), dx, dh0


def linear_states(residuals, dy, da_of):
    """`da_of(g, h, previous)` of the right sensitivities g[T, D]."""
    _, h0, h = residuals
    g = linear_bwd(residuals, dy)[1]
    return da_of(g, h, jnp.concatenate([h0[None], h[:-1]]))


cases.right(
    "linear-recurrence",
    linear,
    lambda a, x, h0: (linear(a, x, h0), (a, h0, linear(a, x, h0))),
    linear_bwd,
    lambda rng: (uniform(rng, 3, low=0.4, high=0.9), normal(rng, 5, 3), normal(rng, 3)),
)
cases.wrong(
    "recurrence-last-step",
    "a",
    ("overwritten", "one-example"),
    "the loop assigns da: the first step of the sweep remains",
    edit={0: lambda d, res, dy: linear_states(res, dy, lambda g, h, p: (g * p)[-1])},
)
cases.wrong(
    "recurrence-first-step",
    "a",
    ("overwritten", "one-example"),
    "the loop assigns da: the last step of the sweep remains",
    edit={0: lambda d, res, dy: linear_states(res, dy, lambda g, h, p: (g * p)[0])},
)
cases.wrong(
    "recurrence-averaged",
    "a",
    "averaged",
    "da is a mean over time",
    edit={0: lambda d, res, dy: d / dy.shape[0]},
)
cases.wrong(
    "recurrence-state-after",
    "a",
    "shifted",
    "da uses h_t for h_{t-1}",
    edit={0: lambda d, res, dy: linear_states(res, dy, lambda g, h, p: (g * h).sum(0))},
)
cases.wrong(
    "recurrence-h0-left-out",
    "a",
    "missing-term",
    "da leaves the first step out",
    edit={0: lambda d, res, dy: linear_states(res, dy, lambda g, h, p: (g * p)[1:].sum(0))},
)
cases.wrong(
    "recurrence-no-carry",
    "x",
    "missing-term",
    "each step's dx leaves the later ones out",
    edit={1: lambda d, res, dy: dy},
)
cases.wrong(
    "recurrence-truncated",
    "x",
    "missing-term",
    "dx looks one step ahead and no further",
    edit={1: lambda d, res, dy: dy + res[0] * jnp.concatenate([dy[1:], jnp.zeros_like(dy[:1])])},
)
cases.wrong(
    "recurrence-time-reversed",
    "x",
    "flipped",
    "dx comes in the order of the sweep",
    edit={1: lambda d, res, dy: d[::-1]},
)
cases.wrong(
    "recurrence-swept-forwards",
    "x",
    ("transposed", "flipped"),
    "the sweep runs forwards in time",
    edit={1: lambda d, res, dy: linear(res[0], dy, jnp.zeros_like(res[1]))},
)
cases.wrong(
    "recurrence-one-late",
    "x",
    "shifted",
    "dx comes one step late",
    edit={1: lambda d, res, dy: jnp.concatenate([jnp.zeros_like(d[:1]), d[:-1]])},
)
cases.wrong(
    "recurrence-h0-zero",
    "h0",
    "zero",
    "the initial state gets nothing",
    edit={2: lambda d, res, dy: jnp.zeros_like(d)},
)
cases.wrong(
    "recurrence-h0-no-decay",
    "h0",
    ("missing-term", "scale"),
    "dh0 lacks the last factor a",
    edit={2: lambda d, res, dy: linear_bwd(res, dy)[1][0]},
)
cases.wrong(
    "recurrence-no-decay",
    "x",
    "missing-term",
    "the carry goes back without the factor a",
    edit={1: lambda d, res, dy: jnp.cumsum(dy[::-1], 0)[::-1]},
)
cases.wrong(
    "recurrence-detached",
    "a",
    "second-order",
    "the states are detached",
    bwd=lambda res, dy: linear_bwd((res[0], res[1], lax.stop_gradient(res[2])), dy),
    shows="second-order",
)


def rnn(w, u, x):
    """h_t = tanh(w h_{t-1} + u x_t), the last state."""

    def step(h, x_t):
        return jnp.tanh(w @ h + u @ x_t), None

    return lax.scan(step, jnp.zeros(w.shape[0], x.dtype), x)[0]


def rnn_fwd(w, u, x):
    def step(h, x_t):
        new = jnp.tanh(w @ h + u @ x_t)
        return new, (h, new)

    last, (before, after) = lax.scan(step, jnp.zeros(w.shape[0], x.dtype), x)
    return last, (w, u, x, before, after)


def rnn_bwd(residuals, dy, slope=lambda new: 1 - new * new, carry=lambda w, dz: w.T @ dz):
    w, u, x, before, after = residuals

    def step(sums, step_inputs):
        dh, dw, du = sums
        x_t, h, new = step_inputs
        dz = dh * slope(new)
        return (carry(w, dz), dw + jnp.outer(dz, h), du + jnp.outer(dz, x_t)), u.T @ dz

    start = (dy, jnp.zeros_like(w), jnp.zeros_like(u))
    (_, dw, du), dx = lax.scan(step, start, (x, before, after), reverse=True)
    return dw, du, dx


cases.right(
    "rnn",
    rnn,
    rnn_fwd,
    rnn_bwd,
    lambda rng: (normal(rng, 3, 3, scale=0.6), normal(rng, 3, 2), normal(rng, 4, 2)),
)
cases.wrong(
    "rnn-input-weight-overwritten",
    "u",
    ("overwritten", "one-example"),
    "du keeps one step of the sweep",
    edit={1: lambda d, res, dy: jnp.outer(dy * (1 - res[4][-1] ** 2), res[2][-1])},
)
cases.wrong(
    "rnn-activation-missing",
    ("w", "u", "x"),
    "missing-term",
    "tanh' is left out of the sweep",
    bwd=lambda res, dy: rnn_bwd(res, dy, slope=lambda new: jnp.ones_like(new)),
)
cases.wrong(
    "rnn-carry-untransposed",
    ("w", "u", "x"),
    "transposed",
    "the carry goes back through w instead of wᵀ",
    bwd=lambda res, dy: rnn_bwd(res, dy, carry=lambda w, dz: w @ dz),
)
cases.wrong(
    "rnn-carry-cut",
    ("w", "u", "x"),
    ("missing-term", "one-example"),
    "the sweep stops after the last step",
    bwd=lambda res, dy: rnn_bwd(res, dy, carry=lambda w, dz: jnp.zeros_like(dz)),
)


def smoothed(x):
    """An exponential moving average along the first axis."""

    def step(m, x_t):
        m = 0.8 * m + 0.2 * x_t
        return m, m

    return lax.scan(step, jnp.zeros_like(x[0]), x)[1]


def smoothed_bwd(_, dy):
    def step(g, dy_t):
        g = dy_t + 0.8 * g
        return g, 0.2 * g

    return (lax.scan(step, jnp.zeros_like(dy[0]), dy, reverse=True)[1],)


cases.right(
    "moving-average",
    smoothed,
    lambda x: (smoothed(x), None),
    smoothed_bwd,
    lambda rng: (normal(rng, 6, 2),),
)
cases.wrong(
    "moving-average-weight",
    "x",
    "scale",
    "the weight 0.2 of a new value is left out",
    edit={0: lambda d, _, dy: 5 * d},
)
cases.wrong(
    "moving-average-decay",
    "x",
    "missing-term",
    "0.2 and 0.8 exchanged",
    edit={
        0: lambda d, _, dy: lax.scan(
            lambda g, dy_t: (dy_t + 0.2 * g, 0.8 * (dy_t + 0.2 * g)),
            jnp.zeros_like(dy[0]),
            dy,
            reverse=True,
        )[1]
    },
)


def deep(w, x):
    """Three layers that share one matrix."""
    for _ in range(3):
        x = jnp.sin(w @ x)
    return x


def deep_fwd(w, x):
    kept = []
    for _ in range(3):
        kept.append((x, w @ x))
        x = jnp.sin(w @ x)
    return x, (w, kept)


def deep_bwd(residuals, dy):
    w, kept = residuals
    dw = jnp.zeros_like(w)
    for x, z in reversed(kept):
        dz = dy * jnp.cos(z)
        dw += jnp.outer(dz, x)
        dy = w.T @ dz
    return dw, dy


cases.right(
    "shared-layers", deep, deep_fwd, deep_bwd, lambda rng: (normal(rng, 3, 3), normal(rng, 3))
)
cases.wrong(
    "shared-layers-overwritten",
    "w",
    ("overwritten", "missing-term"),
    "dw of the last layer remains, the earlier ones are lost",
    edit={0: lambda d, res, dy: jnp.outer(dy * jnp.cos(res[1][-1][1]), res[1][-1][0])},
)
cases.wrong(
    "shared-layers-averaged",
    "w",
    ("averaged", "scale"),
    "dw is a mean over the layers",
    edit={0: lambda d, res, dy: d / 3},
)
cases.wrong(
    "shared-layers-first-left-out",
    "w",
    "missing-term",
    "the first layer's share is left out",
    edit={0: lambda d, res, dy: deep_bwd((res[0], res[1][1:]), dy)[0]},
)


def newton_root(a):
    """√a by a fixed number of Newton steps in a while loop; the rule is the implicit one."""

    def step(state):
        i, y = state
        return i + 1, 0.5 * (y + a / y)

    return lax.while_loop(lambda state: state[0] < 30, step, (0, a))[1]


cases.right(
    "implicit-root",
    newton_root,
    lambda a: (newton_root(a), newton_root(a)),
    lambda y, dy: (dy / (2 * y),),
    lambda rng: (uniform(rng, 5, low=0.5, high=4),),
    "a while loop inside, which autodiff cannot reverse",
    reference=lambda a: jnp.sqrt(a),
)
cases.wrong(
    "implicit-root-factor", "a", "scale", "1/y for 1/(2y)", edit={0: lambda d, y, dy: dy / y}
)


def associative(a, x):
    def combine(left, right):
        return left[0] * right[0], right[0] * left[1] + right[1]

    return lax.associative_scan(combine, (a, x))[1]


def associative_bwd(residuals, dy):
    a, h = residuals
    later = jnp.concatenate([a[1:], jnp.zeros_like(a[:1])])
    g = associative(later[::-1], dy[::-1])[::-1]
    return g * jnp.concatenate([jnp.zeros_like(h[:1]), h[:-1]]), g


cases.right(
    "associative-scan",
    associative,
    lambda a, x: (associative(a, x), (a, associative(a, x))),
    associative_bwd,
    lambda rng: (uniform(rng, 7, low=-1, high=1), normal(rng, 7)),
    "another order of the same recurrence",
)
cases.wrong(
    "associative-gate-shifted",
    "x",
    ("shifted", "missing-term"),
    "the sweep uses a_t where a_{t+1} belongs",
    edit={1: lambda d, res, dy: associative(res[0][::-1], dy[::-1])[::-1]},
)
cases.wrong(
    "associative-gate-state",
    "a",
    "shifted",
    "da uses h_t for h_{t-1}",
    edit={0: lambda d, res, dy: associative_bwd(res, dy)[1] * res[1]},
)


def decay_while(x):
    def body(i, y):
        return lax.cond(i % 2 == 0, lambda z: z * jnp.cos(z), lambda z: z + 0.1 * z * z, y)

    return lax.fori_loop(0, 3, body, x)


cases.right(
    "loop-with-branches",
    decay_while,
    lambda x: (decay_while(x), x),
    lambda x, dy: (jax.vjp(decay_while, x)[1](dy)[0],),
    lambda rng: (normal(rng, 5),),
    "cond inside a loop, differentiated inside the rule",
)
