# Sourced by the other scripts: a Python environment with tokenring-xdit in it.
#
#   prepare_environment [EXTRA]
#
# Uses the active virtual environment, or makes .venv in the repository. Installs nothing when the
# last installation is still the right one, so that the second run starts at once.

prepare_environment() {
    local extra="${1:-}" root stamp wanted
    root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
    if [ -z "${VIRTUAL_ENV:-}" ] && [ -z "${CONDA_PREFIX:-}" ]; then
        [ -x "$root/.venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$root/.venv"
        # shellcheck disable=SC1091
        . "$root/.venv/bin/activate"
    fi
    stamp="$(python -c 'import sys; print(sys.prefix)')/.tokenring-xdit${extra:+-$extra}"
    wanted="$root $(python --version) $(cksum < "$root/pyproject.toml")"
    if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    echo "installing tokenring-xdit${extra:+ with [$extra]} into $(python -c 'import sys; print(sys.prefix)'), once" >&2
    export PIP_DISABLE_PIP_VERSION_CHECK=1
    # Without a GPU the CPU build of torch will do, where pip can find it; it is much smaller.
    if ! command -v nvidia-smi >/dev/null && ! python -c 'import torch' 2>/dev/null; then
        python -m pip install --quiet 'torch==2.13.0+cpu' 2>/dev/null ||
            echo "no CPU build of torch to be found: installing the standard one, which is large" >&2
    fi
    python -m pip install --quiet --editable "$root${extra:+[$extra]}"
    echo "$wanted" > "$stamp"
}
