"""The command line as `python -m softprompt`, which is also what `torchrun -m softprompt` starts."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
