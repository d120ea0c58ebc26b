"""Has each cotangent its primal's dtype, and an integer argument none?"""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbp.verify.checks.outcome import Outcome, finding
from jaxbp.verify.checks.plain_call import PlainCall
from jaxbp.verify.trial import Trial

NAME = "dtype"


def check(trial: Trial, call: PlainCall) -> Outcome:
    """The dtypes of what the plain call gives."""
    outcome = Outcome()
    _integers(trial, call, outcome)
    bad = False
    for leaf, ct in zip(trial.subject.leaves, call.cotangents, strict=True):
        if np.dtype(ct.dtype) != leaf.dtype:
            bad = True
            message = f"the cotangent is {ct.dtype}, its primal {leaf.dtype}"
            outcome.found(finding(NAME, "dtype", message, argument=leaf.name))
    if not bad:
        outcome.row(NAME, True, "each cotangent has its primal's dtype")
    return outcome


def _integers(trial: Trial, call: PlainCall, outcome: Outcome) -> None:
    """An integer argument has no cotangent: None or float0, at most integer zeros."""
    fn: Any = trial.subject.fn
    held, backward = getattr(fn, "nondiff_argnums", None), getattr(fn, "bwd", None)
    if held is None or held or backward is None or not trial.subject.others or fn.symbolic_zeros:
        return  # JAX drops such a cotangent itself; only a bare rule can be asked for it
    try:
        arguments, cotangents = _asked(trial, call)
    except Exception:  # only an aside: whatever stops it has been said elsewhere or does no harm
        return
    for position, (argument, cotangent) in enumerate(zip(arguments, cotangents, strict=False)):
        primals = jax.tree.leaves(argument)
        if not primals or any(jnp.issubdtype(jnp.result_type(p), jnp.inexact) for p in primals):
            continue
        dtypes = [getattr(ct, "dtype", None) for ct in jax.tree.leaves(cotangent)]
        inexact = [d for d in dtypes if d is not None and jnp.issubdtype(d, jnp.inexact)]
        if inexact:
            name = trial.subject.argument_names[position]
            message = (
                f"`{name}` is an integer array and gets a {inexact[0]} cotangent: return None (or "
                "float0 zeros)"
            )
            outcome.found(finding(NAME, "dtype", message, argument=name))


def _asked(trial: Trial, call: PlainCall) -> tuple[tuple[Any, ...], Any]:
    """The rule's own arguments, and what its bwd returns for them."""
    fn: Any = trial.subject.fn
    given = [jnp.asarray(v) for v in trial.subject.cast(trial.subject.x)]
    args, kwargs = trial.subject.call(lambda *a, **k: (a, k), given, trial.subject.others)
    arguments = inspect.signature(fn.fun).bind(*args, **kwargs).args
    out, residuals = fn.fwd(*arguments)
    tree = jax.tree.structure(out)
    return arguments, fn.bwd(residuals, jax.tree.unflatten(tree, trial.given.cotangents(call.c)))
