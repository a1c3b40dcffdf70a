#!/usr/bin/env bash
# diffusers' own fast tests of pipelines, each pipeline that is called spread over two ranks: prints what passes alone
# and fails sharded. Nothing is fetched: the tree is one that you have, and the installed diffusers is what is tested.
#
#   bash scripts/peer_suite.sh DIFFUSERS_TREE [FOLDER ...] [--ranks N] [--limit SECONDS] [--hub-cache FOLDER]
#
# FOLDER is one or a file below tests/pipelines, such as flux or wan/test_wan.py; by default those of docs/diffusers.md.
set -euo pipefail
tree="${1-}"
case "$tree" in
"" | -h | --help) ;;
*) set -- "$(realpath -- "$tree")" "${@:2}" ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh
prepare_environment dev
export CUDA_VISIBLE_DEVICES="" LOG_LEVEL="${LOG_LEVEL:-error}"
exec python -m tests.support.peer "$@"
