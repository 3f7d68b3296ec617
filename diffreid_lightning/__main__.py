"""``python -m diffreid_lightning`` is :func:`diffreid_lightning.cli.main`."""

import sys

from diffreid_lightning.cli import main

if __name__ == "__main__":
    sys.exit(main())
