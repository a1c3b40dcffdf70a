#!/usr/bin/env bash
# One node: finds its GPUs, puts the ranks in a ring along their NVLinks, and starts them.
set -euo pipefail

usage() {
    cat <<'END'
usage: bash scripts/launch-node.sh [options] CONFIG [key=value ...]
       bash scripts/launch-node.sh [options] -- PROGRAM [argument ...]

Starts the ranks of a run on the GPUs of this node. Neighbours in TokenRing's ring get GPUs that NVLink
connects, as far as the machine has them; where it has not, a warning says so.

END
    common_usage
    cat <<'END'

example: bash scripts/launch-node.sh --dry-run config.yaml steps=20
END
}

# shellcheck source=scripts/launch-common.sh
. "$(dirname "${BASH_SOURCE[0]}")/launch-common.sh"
parse_arguments "$@"
read_degrees
choose_devices
# Not torchrun, whose --standalone listens on all addresses and unpickles what anyone puts there.
launch_here
