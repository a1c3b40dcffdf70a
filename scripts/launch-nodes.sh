#!/usr/bin/env bash
# One of several nodes: to be run on each of them, with the same arguments except for --node-rank.
set -euo pipefail

usage() {
    cat <<'END'
usage: bash scripts/launch-nodes.sh --nodes N --node-rank R --master HOST[:PORT] [options] CONFIG [key=value ...]
       bash scripts/launch-nodes.sh --nodes N --node-rank R --master HOST[:PORT] [options] -- PROGRAM [argument ...]

Starts the ranks of a run that are on this node, under torchrun; they wait for those of the other nodes. On
each node GPUs are put in order as launch-node.sh does it. Rank 0 is on node 0, and so on through the nodes.

  --nodes N         how many nodes there are
  --node-rank R     which of them this one is, from 0; in a SLURM step, its SLURM_NODEID by default
  --master HOST[:PORT]
                    the node of rank 0, by an address that all nodes reach; port 29500 by default
  --interface NAME  the network interface to talk through; by default the one that leads to the master
END
    common_usage
    cat <<'END'

example: bash scripts/launch-nodes.sh --nodes 2 --node-rank 0 --master 10.0.0.1 config.yaml
         bash scripts/launch-nodes.sh --nodes 2 --node-rank 1 --master 10.0.0.1 config.yaml   # on the other
END
}

# shellcheck source=scripts/launch-common.sh
. "$(dirname "${BASH_SOURCE[0]}")/launch-common.sh"
value_options+=(["--nodes"]=nodes ["--node-rank"]=node_rank ["--master"]=master ["--interface"]=interface)
nodes="" node_rank="${SLURM_NODEID-}" master="" interface=""

# Sets address, this node's own on the way to the master, and interface, the device that holds it. The
# route alone would not do: on the master itself it is the loopback, and an address may belong to
# another device than the one that packets leave by.
find_interface() {
    local resolved
    resolved="$(getent ahostsv4 "$host" | awk 'NR == 1 { print $1 }')" || true
    [ -n "$resolved" ] || refuse "the master's name '$host' does not resolve to an IPv4 address on this node"
    if ! command -v ip >/dev/null; then
        [ -n "$interface" ] || warn "without the command 'ip' the network interface stays a guess of NCCL and gloo; name it with --interface"
        return
    fi
    address="$(ip -oneline -4 route get "$resolved" 2>/dev/null | sed -n 's/.* src \([0-9.]*\).*/\1/p')" || true
    [ -n "$address" ] || refuse "this node has no route to the master, $host"
    if [[ "$address" == 127.* ]]; then
        [ "$nodes" -eq 1 ] || warn "$host is a loopback address on this node: only processes of this machine reach" \
            "it. Name the master by an address that the other nodes reach"
        return
    fi
    if [ -z "$interface" ]; then
        interface="$(ip -oneline -4 address show to "$address" | awk 'NR == 1 { print $2 }')"
    fi
}

parse_arguments "$@"
is_number "$nodes" && [ "$nodes" -gt 0 ] || refuse "--nodes says how many nodes there are; it is '$nodes'"
is_number "$node_rank" && [ "$node_rank" -lt "$nodes" ] ||
    refuse "--node-rank says which of the $nodes nodes this one is, from 0 to $((nodes - 1)); it is '$node_rank'"
host="${master%:*}" port=29500 address=""
if [[ "$master" == *:* ]]; then
    port="${master##*:}"
fi
[ -n "$host" ] && [[ "$host" != *:* ]] && is_number "$port" && [ "$port" -le 65535 ] ||
    refuse "--master names the node of rank 0, HOST or HOST:PORT, by name or IPv4 address; it is '$master'"

read_degrees
choose_devices
find_interface
if [ -n "$interface" ]; then
    # Left to themselves, both may choose an interface that is up but leads to no other node. NCCL: "may try
    # to use them anyway and therefore fail during the init functions or even hang" (NCCL guide,
    # troubleshooting); "=" asks for this very name (NCCL_SOCKET_IFNAME). gloo takes what the host's name
    # resolves to; ranks agree on their calls over gloo, on GPUs too.
    setting NCCL_SOCKET_IFNAME "=$interface"
    setting GLOO_SOCKET_IFNAME "$interface"
fi
# Static: the rank of a node is the one given, so that the ring is the same in each run.
launch --nnodes "$nodes" --node-rank "$node_rank" --rdzv-backend static --master-addr "$host" --master-port "$port" \
    ${address:+--local-addr "$address"}
