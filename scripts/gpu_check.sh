#!/usr/bin/env bash
# Checks the GPUs of this machine, or its processor where it has none: one folder with a report, about ten minutes.
#   bash scripts/gpu_check.sh            # arguments go to tokenring-xdit doctor; see its --help
# Where there are GPUs and the tests' requirements, tests of memory that GPUs reach run afterwards, ten minutes at most.
set -euo pipefail
python="${PYTHON:-python}"
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
status=0
"$python" -m tokenring_xdit.cli doctor "$@" || status=$?
case " $* " in
*" --help "* | *" -h "*) exit "$status" ;;
esac
if [ "$status" -eq 2 ] || ! timeout 60 nvidia-smi -L >/dev/null 2>&1; then
    exit "$status"
fi
if ! "$python" -c "import pytest, hypothesis" >/dev/null 2>&1; then
    echo "Tests of memory that GPUs reach were not run: pip install pytest hypothesis" >&2
    exit "$status"
fi
echo "Tests of memory that GPUs reach (TOKENRING_TRANSPORT=symmetric):"
cd "$root"
tests=0
LOG_LEVEL=error timeout 600 "$python" -m pytest -q -m cuda tests/attention/transport/test_torch_memory.py || tests=$?
if [ "$tests" -eq 124 ]; then # a slow machine is not a broken one
    echo "These tests were cut off after ten minutes, which says nothing about the GPUs" >&2
elif [ "$tests" -ne 0 ]; then
    status="$tests"
fi
exit "$status"
