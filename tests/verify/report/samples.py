"""Two reports, and the text of one of them, for the tests of how reports are written."""

import dataclasses
import re

from jaxbp.verify.report import Check, Finding, Power, Precision, Report

TRANSPOSED = Finding(
    check="gradient",
    argument="w['a'].kernel",
    diagnosis="transposed",
    message="the cotangent is the truth with its axes in the order (1, 0) and then reshaped",
    side="rule",
    index=(2, 1),
    got=0.7431,
    expected=-1.20384,
    tolerance=2.4e-6,
    explained=1.0,
)
WRONG = Report(
    function="bad_linear",
    arguments=("x: f32[4,3]", "w['a'].kernel: f32[3,5]"),
    checks=(
        Check("value", True),
        Check("gradient", False, "1 of 2 arguments"),
        Check("shard-map", None, "not run: one device"),
    ),
    findings=(TRANSPOSED,),
    powers=(Power("x", 1.2e-6, 3e-7), Power("w['a'].kernel", 2e-6, float("inf"), "no direction")),
    precisions=(Precision("bfloat16", "x", 1.2, 1.1, 1.09),),
    warnings=("this JAX build computes wrongly",),
    notes=("3 entries of x stand at a kink",),
    seed=7,
    seconds=3.21,
    reference="the primal inside the rule",
)
RIGHT = dataclasses.replace(WRONG, function="good", findings=(), checks=(Check("value", True),))

EXPECTED = """\
refuted: transposed (w['a'].kernel) in bad_linear
  arguments      x: f32[4,3], w['a'].kernel: f32[3,5]
  compared with  the primal inside the rule
  seed           7, 3.2 s

error[transposed]: the gradient of w['a'].kernel has axes exchanged
  --> bad_linear, w['a'].kernel[2, 1]  (gradient)
   |
   | it is            0.7431
   | should be       -1.20384
   | apart by         1.95
   | allowed          2.4e-06
   |
   = the cotangent is the truth with its axes in the order (1, 0) and then reshaped; this
     explains 100 % of the error
   = look at the order of the operands and axes in the product that makes this cotangent

checked
  value       ok
  gradient   WRONG  1 of 2 arguments
  shard-map    -    not run: one device

precision   argument  rule, ulps  autodiff, ulps  rule over autodiff or floor
  bfloat16  x               1.20            1.10                         1.09

would be seen    one entry off by  all scaled by 1 +
  x                       1.2e-06            3.0e-07
  w['a'].kernel           2.0e-06            nothing  no direction

warning: this JAX build computes wrongly

note: 3 entries of x stand at a kink"""


def plain(text):
    return re.sub("\x1b\\[[0-9;]*m", "", text)
