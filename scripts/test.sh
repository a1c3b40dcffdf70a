#!/usr/bin/env bash
# All tests that this machine can run; arguments go to pytest.
#
#   bash scripts/test.sh [-k EXPRESSION ...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh
prepare_environment dev
LOG_LEVEL=error exec python -m pytest "$@"
