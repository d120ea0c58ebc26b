"""The report as data."""

import json

from jaxbp.verify.report import Finding, Report


def test_the_report_is_json_even_where_numbers_are_not_finite():
    finding = Finding("gradient", "x", "nan", "…", "rule", (0,), float("nan"), 1.0)
    report = Report("f", ("x: float32[3]",), (), (finding,))
    assert not report.ok
    assert json.loads(report.to_json())["findings"][0]["got"] == "nan"
