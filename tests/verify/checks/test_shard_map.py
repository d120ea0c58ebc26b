"""The rule over devices."""

import jax
import jax.numpy as jnp
import pytest

from jaxbp.verify import check_vjp
from tests.verify.rules import layer_arguments, layer_rule, normal


def words(report):
    return {(f.argument, f.diagnosis) for f in report.findings}


@pytest.mark.parametrize(("combined", "right"), [(jax.lax.psum, True), (jax.lax.pmean, False)])
def test_a_replicated_argument_s_cotangent_is_summed_over_the_devices(combined, right):
    def over_devices(dx, dw, dy):
        axes = tuple(jax.typeof(dw).manual_axis_type.varying)
        return dx, combined(dw, axes) if axes else dw

    found = check_vjp(layer_rule(over_devices), *layer_arguments(), checks=("shard-map",))
    assert words(found) == (set() if right else {("w", "shard-map")})
    (row,) = found.checks
    assert row.ok is right
    assert "2 devices" in row.detail


def test_one_device_has_it_all_where_the_examples_cannot_be_shared_out():
    report = check_vjp(jnp.sin, normal(3), checks=("shard-map",))
    assert report.checks[0].ok
    assert "one device" in report.checks[0].detail
