#!/usr/bin/env bash
# Checks the GPUs of this machine, or its processor where it has none: one folder with a report, about ten minutes.
#   bash scripts/gpu_check.sh            # arguments go to tokenring-xdit doctor; see its --help
set -euo pipefail
exec "${PYTHON:-python}" -m tokenring_xdit.cli doctor "$@"
