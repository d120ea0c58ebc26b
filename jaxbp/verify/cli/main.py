"""The command `jaxbp verify`: prove or refute rules from a shell.

Exit status: 0 nothing wrong found, 1 refuted, 2 could not run, 130 interrupted.
"""

import argparse
import io
import os
import sys
import traceback
from collections.abc import Sequence

from jaxbp.verify.cli.failure import CannotRunError, reason
from jaxbp.verify.cli.files import refuse_unwritable
from jaxbp.verify.cli.list_rules import list_rules
from jaxbp.verify.cli.many_cases import verify_cases
from jaxbp.verify.cli.one_function import verify_function
from jaxbp.verify.cli.options import parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit status.

    Args:
        argv: the arguments after the program's name; None: those of this process.

    Returns:
        0, 1, 2 or 130, as the module's docstring says.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A letter that the terminal has not got is written as stderr writes it.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        options = parser().parse_args(argv)
        status = _run(options)
        sys.stdout.flush()  # what cannot be written is said here, not at Python's own end
        return status
    except CannotRunError as error:
        print(f"jaxbp verify: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("jaxbp verify: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        _mute()
        return 2
    except OSError as error:
        _mute()
        print(f"jaxbp verify: {reason(error)}", file=sys.stderr)
        return 2
    except Exception:  # a mistake of our own: Python's status would be 1, that of a refutation
        traceback.print_exc()
        return 2


def _mute() -> None:
    """Let Python's last flush go nowhere: it would complain of what has been said already."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(options: argparse.Namespace) -> int:
    modes = [options.target, options.cases, options.discover]
    if sum(mode is not None for mode in modes) > 1:
        raise CannotRunError("expected one of MODULE:FUNCTION, --cases and --discover, got several")
    if options.target is None:
        for name in ("args", "reference", "static"):
            if getattr(options, name) not in (None, []):
                raise CannotRunError(f"--{name} needs a MODULE:FUNCTION to belong to")
    if options.discover is not None and options.json is not None:
        raise CannotRunError("--json belongs to a check, not to --discover")
    sys.path.insert(0, os.getcwd())  # as `python -m` does
    if options.discover is not None:
        return list_rules(options.discover)
    if options.json is not None:
        try:
            refuse_unwritable(options.json)
        except OSError as error:
            raise CannotRunError(f"--json: cannot write {options.json}: {error.strerror}") from None
    if options.target is not None:
        return verify_function(options)
    return verify_cases(options)
