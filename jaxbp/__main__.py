"""`python -m jaxbp` is the command `jaxbp`."""

import sys

from jaxbp.verify.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
