"""``python -m tokenring_xdit`` is ``tokenring-xdit``."""

import sys

from tokenring_xdit.cli import main

if __name__ == "__main__":
    sys.exit(main())
