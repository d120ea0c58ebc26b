"""The checker of hand-written derivatives: it works on anybody's function."""

from jaxbp.verify.check import assert_vjp, check_vjp
from jaxbp.verify.report import Finding, Report

__all__ = ["Finding", "Report", "assert_vjp", "check_vjp"]
