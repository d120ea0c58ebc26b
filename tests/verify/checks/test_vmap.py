"""The rule in a batch."""

import jax
import jax.numpy as jnp

from jaxbp.verify import check_vjp
from tests.verify.rules import normal, rule


def words(report):
    return {(f.argument, f.diagnosis) for f in report.findings}


def test_wrong_only_under_vmap_over_two_of_four_arguments():
    @jax.custom_batching.custom_vmap
    def product(a, b, c):
        return a * b * c

    @product.def_vmap
    def _(size, batched, a, b, c):
        return (2 if batched == [True, False, True] else 1) * a * b * c, True

    def bwd(args, dy):
        a, b, c, d = args
        return dy * b * c * d, dy * a * c * d, dy * a * b * d, dy * product(a, b, c)

    four = rule(lambda a, b, c, d: a * b * c * d, bwd)
    found = check_vjp(four, *(normal(3) for _ in range(4)), checks=("gradient", "vmap"))
    assert words(found) == {("d", "vmap")}, str(found)


def test_an_output_that_all_examples_share_is_named_as_the_cause():
    @jax.custom_batching.custom_vmap
    def doubled_in_a_batch(dx):
        return dx

    @doubled_in_a_batch.def_vmap
    def _(size, batched, dx):
        return 2 * dx, True

    def forward(x, s):
        return x * s, s * 0.9

    def found(change):
        def bwd(residuals, dy):
            x, s = residuals
            return change(dy[0] * s), dy[0] * x + 0.9 * dy[1]

        two = jnp.float32(2.0), jnp.float32(5.0)
        (finding,) = check_vjp(rule(forward, bwd), *two, checks=("vmap",)).findings
        return finding.message

    message = found(lambda dx: dx)  # right by itself
    assert "depends on nothing that is mapped over" in message
    if "raises" in message:  # jax 0.12 refuses it, and says at length what to do
        assert "generic_batching=True" in message
    else:
        assert "output 1" in message
        assert "mapped over" not in found(doubled_in_a_batch)
