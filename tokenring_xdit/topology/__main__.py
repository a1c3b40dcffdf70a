"""``python -m tokenring_xdit.topology``: the order of a machine's GPUs, for the launch scripts."""

import sys

from tokenring_xdit.topology.nvidia import main

if __name__ == "__main__":
    sys.exit(main())
