"""`python -m jaxbp` is the command `jaxbp`."""

import sys

from jaxbp.verify.command import main

if __name__ == "__main__":
    sys.exit(main())
