# shellcheck shell=bash
# Sourced by launch-node.sh and launch-nodes.sh: what both of them do.
#
#   parse_arguments "$@"   reads the options and what is to be started
#   read_degrees           how many ranks CONFIG asks for on each of $nodes nodes
#   choose_devices         which GPUs the ranks of this node get, and in which order
#   launch_here            starts the ranks on this node without torchrun, or prints the command
#   launch WORD ...        starts torchrun with these options, or prints the command
#
# A script defines usage() and adds options of its own to value_options.

program="$(basename "$0")"
declare -A value_options=([--ranks]=ranks [--ulysses-degree]=ulysses [--gpus]=gpus [--nvidia-smi]=matrix_file)
declare -A flags=([--cpu]=cpu [--keep-order]=keep_order [--dry-run]=dry_run)
ranks="" ulysses="" gpus="" matrix_file="" cpu="" keep_order="" dry_run=""
nodes=1
config=()   # CONFIG and what replaces settings in it
target=()   # what torchrun starts
safely=()   # options of the interpreter
settings=() # NAME=VALUE, for the ranks
python="${PYTHON:-python}"

refuse() {
    echo "$program: $*" >&2
    exit 2
}

warn() {
    echo "$program: warning: $*" >&2
}

common_usage() {
    cat <<'END'
  --ranks N         processes on a node; by default as many as the degrees in CONFIG make up, and for a
                    PROGRAM one for each GPU
  --ulysses-degree U
                    for a PROGRAM: the ulysses_degree that it sets, so that GPUs are put in order for that
  --gpus LIST       use these GPUs only, by their indices in nvidia-smi, such as 0,1,2,3; by default
                    those in CUDA_VISIBLE_DEVICES, or all
  --keep-order      take the GPUs of --gpus or CUDA_VISIBLE_DEVICES in the order given, and do not look
                    at their links
  --cpu             no GPUs: --ranks processes that communicate over gloo
  --dry-run         print the environment and the command, and start nothing
  --nvidia-smi FILE with --dry-run: plan for the machine on which 'nvidia-smi topo -m' printed FILE
  --help            print this

CONFIG is a file for 'tokenring-xdit run', and each key=value after it replaces a setting in it. Instead
of both, everything after -- is started on each rank, as torchrun would: a script of yours with its
arguments, or -m MODULE. Variables that are set already stay as they are; docs/launch.md says what each is for.
END
}

# setting NAME VALUE: a variable for the ranks, unless the user has set it
setting() {
    settings+=("$1=${!1-$2}")
}

is_number() {
    [[ "$1" =~ ^(0|[1-9][0-9]{0,5})$ ]]
}

parse_arguments() {
    local name value
    while [[ "${1-}" == --?* ]]; do
        if [[ "$1" == --*=* ]]; then
            set -- "${1%%=*}" "${1#*=}" "${@:2}"
        fi
        if [ "$1" = --help ]; then
            usage
            exit 0
        elif [ -n "${flags[$1]-}" ]; then
            printf -v "${flags[$1]}" yes
            shift
        elif [ -n "${value_options[$1]-}" ]; then
            name="$1"
            [ -n "${2-}" ] || refuse "$name needs a value"
            printf -v "${value_options[$name]}" %s "$2"
            shift 2
        else
            refuse "unknown option $1; see --help"
        fi
    done
    for name in --ranks --ulysses-degree; do
        value="${value_options[$name]}"
        value="${!value}"
        [ -z "$value" ] || { is_number "$value" && [ "$value" -gt 0 ]; } || refuse "$name takes a number, not '$value'"
    done
    if [ "${1-}" = -- ]; then
        shift
        [ $# -gt 0 ] || refuse "nothing to start after --"
        target=("$@")
        return
    fi
    [ $# -gt 0 ] || refuse "name a CONFIG file, or after -- a program; see --help"
    [ -f "$1" ] || refuse "there is no file $1"
    for name in "${@:2}"; do
        [[ "$name" == [!-]*=* ]] || refuse "'$name' is no key=value; options come before $1"
    done
    config=("$@")
    target=("$@")
}

need_package() {
    command -v "$python" >/dev/null || refuse "there is no command '$python'; set PYTHON to the interpreter to use"
    # Not an import: finding out takes no second, and reading xfuser ten.
    "$python" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("tokenring_xdit") is None)' ||
        refuse "'$python' has no tokenring-xdit: activate the environment that it is installed in, or set PYTHON"
    # From Python 3.11 on: modules are not looked for in the working folder, where a file html.py may lie.
    ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || safely=(-P)
}

read_degrees() {
    need_package
    [ "${#config[@]}" -gt 0 ] || return 0
    [ -z "$ulysses" ] || refuse "--ulysses-degree is for a PROGRAM; ${config[0]} says its ulysses_degree itself"
    local shown tokenring all
    # Mistakes in CONFIG are told here, once and before anything is started, instead of by each rank.
    shown="$("$python" "${safely[@]}" -m tokenring_xdit.cli config show "${config[@]}" --json)" || exit
    read -r tokenring ulysses < <("$python" -c 'import json, sys
config = json.load(sys.stdin)
print(config["tokenring_degree"], config.get("ulysses_degree", 1))' <<<"$shown")
    all=$((tokenring * ulysses))
    if ((all % nodes)) || [ "${ranks:-$((all / nodes))}" != $((all / nodes)) ]; then
        refuse "${config[0]} asks for $all ranks, tokenring_degree $tokenring times ulysses_degree $ulysses;" \
            "on $nodes node(s)${ranks:+ with --ranks $ranks} that cannot be had"
    fi
    ranks=$((all / nodes))
}

choose_devices() {
    if [ -n "$cpu" ]; then
        [ -z "$gpus$matrix_file$keep_order" ] || refuse "--cpu does not go with --gpus, --nvidia-smi or --keep-order"
        [ -n "$ranks" ] || refuse "--cpu needs --ranks, the number of processes"
        settings+=("CUDA_VISIBLE_DEVICES=") # no GPU is visible: ranks take the CPU, and gloo to talk
        # torchrun's own default is one thread a process, however many cores there are
        setting OMP_NUM_THREADS "$(($(nproc) > ranks ? $(nproc) / ranks : 1))"
        return
    fi
    local devices
    if [ -n "$keep_order" ]; then
        [ -z "$matrix_file" ] || refuse "--keep-order does not look at links; leave --nvidia-smi out"
        devices="$(given_order)"
    else
        devices="$(ring_order)"
    fi
    local count
    count="$(tr ',' '\n' <<<"$devices" | wc -l)"
    ranks="$count"
    # nvidia-smi numbers GPUs by their place on the bus, CUDA the fastest first unless told otherwise
    # (CUDA programming guide, "CUDA environment variables").
    setting CUDA_DEVICE_ORDER PCI_BUS_ID
    if [ "${CUDA_DEVICE_ORDER-PCI_BUS_ID}" != PCI_BUS_ID ]; then
        warn "CUDA_DEVICE_ORDER is $CUDA_DEVICE_ORDER: CUDA may number GPUs otherwise than nvidia-smi does"
    fi
    # The process of local rank r takes cuda:r, the r-th of these: so their order is the order of the ring.
    settings+=("CUDA_VISIBLE_DEVICES=$devices")
    # "Production minimum" (NCCL user guide, "Logging"): otherwise a failed call is an error code without a reason.
    setting NCCL_DEBUG WARN
}

given_order() {
    local devices="${gpus:-${CUDA_VISIBLE_DEVICES-}}" count
    [ -n "$devices" ] || refuse "--keep-order needs GPUs in an order: --gpus or CUDA_VISIBLE_DEVICES"
    count="$(tr ',' '\n' <<<"$devices" | wc -l)"
    [ "${ranks:-1}" -le "$count" ] || refuse "$ranks ranks were asked for; $count GPUs are named"
    cut -d, "-f1-${ranks:-$count}" <<<"$devices"
}

ring_order() {
    local matrix wishes=()
    if [ -n "$matrix_file" ]; then
        [ -n "$dry_run" ] || refuse "--nvidia-smi plans for another machine: it goes with --dry-run"
        [ -f "$matrix_file" ] || refuse "there is no file $matrix_file"
        matrix="$(cat "$matrix_file")"
    else
        command -v nvidia-smi >/dev/null || refuse "there is no nvidia-smi, so no GPU to find. '--cpu --ranks N' starts" \
            "processes without GPUs, '--dry-run --nvidia-smi FILE' plans for another machine"
        matrix="$(nvidia-smi topo -m)" || refuse "'nvidia-smi topo -m' failed: $matrix"
    fi
    [ -z "$gpus" ] || wishes+=(--gpus "$gpus")
    [ -z "$ranks" ] || wishes+=(--ranks "$ranks")
    [ -z "$ulysses" ] || wishes+=(--ulysses-degree "$ulysses")
    [ -z "${CUDA_VISIBLE_DEVICES+set}" ] || wishes+=(--visible "$CUDA_VISIBLE_DEVICES")
    "$python" "${safely[@]}" -m tokenring_xdit.topology "${wishes[@]}" <<<"$matrix"
}

# As a shell reads it back.
quoted() {
    if [[ "$1" =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then
        printf %s "$1"
    else
        printf %q "$1"
    fi
}

launch_here() {
    if [ "${#config[@]}" -gt 0 ]; then
        start "$python" "${safely[@]}" -m tokenring_xdit.cli run "${target[@]}"
    else
        start "$python" "${safely[@]}" -m tokenring_xdit.workers.launch --ranks "$ranks" "${target[@]}"
    fi
}

launch() {
    # Ranks end with torchrun, whatever ends it: they know its process id before it has started them.
    local program=(--no-python "$python" "${safely[@]}" -m)
    if [ "${#config[@]}" -gt 0 ]; then
        program+=(tokenring_xdit.cli run)
    else
        program+=(tokenring_xdit.workers.lifetime)
    fi
    [ -n "$dry_run" ] || export TOKENRING_LAUNCHER=$$
    start "$python" "${safely[@]}" -m torch.distributed.run "$@" --nproc-per-node "$ranks" "${program[@]}" "${target[@]}"
}

start() {
    local command=(env "${settings[@]}" "$@") word line=""
    if [ -z "$dry_run" ]; then
        exec "${command[@]}" # which keeps the process id
    fi
    for word in "${command[@]}"; do
        line+=" $(quoted "$word")"
    done
    echo "${line# }"
}
