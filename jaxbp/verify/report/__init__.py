"""What was found: as data and as text, without JAX."""

from jaxbp.verify.report.entries import Check, Finding, Power, Precision, Side
from jaxbp.verify.report.report import Report

__all__ = ["Check", "Finding", "Power", "Precision", "Report", "Side"]
