"""`jaxbp verify --discover PACKAGE`: a list of every rule in a package."""

from itertools import groupby

from jaxbp.verify.cli.discover import discover
from jaxbp.verify.cli.failure import CannotRunError, reason, where


def list_rules(package: str) -> int:
    """Print the list and give the exit status."""
    try:
        rules, failures = discover(package)
    except (Exception, SystemExit) as error:
        raise CannotRunError(f"cannot import {package}: {where(error)}{reason(error)}") from None
    for file, group in groupby(rules, lambda rule: rule.file):
        print(file or "(no source)")
        for rule in group:
            remark = f"  ({rule.remark})" if rule.remark else ""
            print(f"{rule.line:6}  {rule.target}{remark}")
    for failure in failures:
        print(f"not imported: {failure.module}: {failure.reason}")
    plural = "" if len(rules) == 1 else "s"
    print(f"{len(rules)} rule{plural} in {package}")
    return 0
