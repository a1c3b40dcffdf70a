#!/usr/bin/env bash
# One node: finds its GPUs, puts the ranks in a ring along their NVLinks, and starts them.
set -euo pipefail

usage() {
    cat <<'END'
usage: bash scripts/launch-node.sh [options] CONFIG [key=value ...]
       bash scripts/launch-node.sh [options] -- PROGRAM [argument ...]

Starts one process for each GPU of this node, under torchrun. Neighbours in TokenRing's ring are GPUs that
NVLink connects, as far as the machine has such a ring; where it has none, a warning says so.

END
    common_usage
    cat <<'END'

example: bash scripts/launch-node.sh --dry-run config.yaml steps=20
END
}

# shellcheck source=scripts/launch-common.sh
. "$(dirname "${BASH_SOURCE[0]}")/launch-common.sh"
parse_arguments "$@"
choose_devices
# Processes of one machine meet at a port of its own, and the name of the machine need not resolve.
launch --standalone --local-addr 127.0.0.1
