#!/usr/bin/env bash
# All tests, on the CPU; arguments go to pytest.
#
#   bash scripts/test.sh [-k EXPRESSION ...]
#   bash scripts/test.sh -m cuda        the kernels that need a GPU
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh
prepare_environment dev
case " $* " in
*" cuda "*) ;;
*) export CUDA_VISIBLE_DEVICES="" ;; # ranks meet over gloo, whatever the machine has
esac
LOG_LEVEL=error exec python -m pytest "$@"
