"""``python -m npgpt``: the command line."""

import sys

from npgpt.cli import main

if __name__ == "__main__":
    sys.exit(main())
