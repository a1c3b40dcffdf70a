"""Runs a program as a rank of ``torchrun`` that ends with it: ``python -m tokenring_xdit.workers.mortal PROGRAM ...``.

``-m MODULE ...`` runs a module. What Linux was asked for stays with the process that becomes the program.
"""

from __future__ import annotations

import os
import sys

from tokenring_xdit.workers.death import end_with_launcher

if __name__ == "__main__":
    end_with_launcher()
    os.execv(sys.executable, [sys.executable, "-u", *sys.argv[1:]])
