#!/usr/bin/env bash
# The tests, on the CPU; arguments go to pytest.
#
#   bash scripts/test.sh [--lowest | --newest] [-k EXPRESSION ...]
#   bash scripts/test.sh --slow         what needs many processes, or minutes: all that the first leaves out
#   bash scripts/test.sh -m cuda        the kernels that need a GPU
#
# Whole runs have two workers, each of which takes a file at a time, in order (by numbers of tests the slowest files,
# of one test, would come last); -n 0 runs everything in one process.
#
# --lowest and --newest make an environment of their own, with the lowest versions that pyproject.toml
# allows or the newest that pip finds; what passed goes into docs/compatibility.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh
case "${1-}" in
--lowest | --newest)
    versions="${1#--}"
    shift
    prepare_other_environment "$versions"
    set -- --compatibility=docs/compatibility.md "$@"
    ;;
--slow)
    shift
    prepare_environment dev
    set -- -m '(ranks or e2e) and not (smoke or netns or cuda or matrix)' "$@"
    ;;
*) prepare_environment dev ;;
esac
case " $* " in
*" tests"* | *" -m cuda "* | *" -m netns "* | *" --support"* | *" --uses-log"* | *" -n "*) ;;
*) set -- --numprocesses=2 --dist=loadfile --no-loadscope-reorder "$@" ;;
esac
unset PYTHON # it has made the environment; launch scripts would take it for the ranks' interpreter
case " $* " in
*" -m cuda "*) ;;
*) export CUDA_VISIBLE_DEVICES="" ;; # the ranks use gloo, whatever the machine has
esac
LOG_LEVEL=error exec python -m pytest "$@"
