"""Is the rule right under `jax.checkpoint`, which runs its fwd a second time?"""

import jax

from jaxbp.verify.checks.outcome import Outcome
from jaxbp.verify.checks.transformed import Composition, Situation, Transform, judge, vjp_leaves
from jaxbp.verify.subject.vectors import LeafFunction


def check(s: Situation) -> Outcome:
    """The gradient of the function computed twice."""
    return judge(s, REMAT)


def _compositions(s: Situation, fn: LeafFunction) -> list[Composition]:
    x = s.points[0]
    return [
        Composition(
            "jax.checkpoint",
            vjp_leaves(jax.checkpoint(fn)),
            (s.leaves(x), s.trial.subject.others, s.ct(0)),
            [s.plain(x, 0)],
        )
    ]


REMAT = Transform("remat", _compositions)
