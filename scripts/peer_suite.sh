#!/usr/bin/env bash
# diffusers' own fast tests of pipelines, each pipeline that is called spread over two ranks: prints what passes alone
# and fails sharded. No model is fetched, the tree is one that you have, and the installed diffusers is what is tested.
#
#   bash scripts/peer_suite.sh DIFFUSERS_TREE [FOLDER ...] [--only EXPRESSION] [--ranks N] [--limit SECONDS]
#       [--keep NEW_FOLDER] [--alone]
#
# FOLDER is one or a file below tests/pipelines, such as flux or wan/test_wan.py; by default those of docs/diffusers.md.
# The tiny models that the tests name on the hub are looked for in HF_HUB_CACHE; without it stand-ins are made.
set -euo pipefail
tree="${1-}"
case "$tree" in
"" | -h | --help) ;;
*) set -- "$(realpath -- "$tree")" "${@:2}" ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh
prepare_environment dev
if [ -z "${HF_HUB_CACHE:-}" ]; then
    PEER_STAND_INS="$(mktemp -d)"
    trap 'rm -rf "$PEER_STAND_INS"' EXIT
    export PEER_STAND_INS HF_HUB_CACHE="$PEER_STAND_INS"
fi
export CUDA_VISIBLE_DEVICES="" HF_HUB_OFFLINE=1 LOG_LEVEL="${LOG_LEVEL:-error}"
python -m tests.support.peer "$@"
