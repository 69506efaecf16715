"""`python -m meshwright` and the installed command `meshwright`."""

from __future__ import annotations

import sys

from meshwright.cli import main


def run() -> None:
    """Run the command line on the process's arguments and exit with its status."""
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    run()
