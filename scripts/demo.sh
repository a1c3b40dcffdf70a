#!/usr/bin/env bash
# One picture from a prompt, drawn by one rank, by Ulysses, by Ring and by TokenRing, side by side.
#
#   bash scripts/demo.sh ["a prompt"]
#   bash scripts/demo.sh --llm          instead, a question to a language model, about a text that is longer than one
#                                       rank may hold, answered by two ranks and by one process
set -euo pipefail
if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then
    sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh
if [ "${1:-}" = --llm ]; then
    prepare_environment llm
    export CUDA_VISIBLE_DEVICES="" LOG_LEVEL="${LOG_LEVEL:-error}" TQDM_DISABLE=1
    exec python scripts/demo_llm.py
fi
prepare_environment

ranks=4
if [ "$(python -c 'import torch; print(torch.cuda.device_count())')" -lt "$ranks" ]; then
    export CUDA_VISIBLE_DEVICES="" # fewer GPUs than ranks: all of them on the CPU
fi
prompt="${1:-a red circle left of a blue square}"
sheet="outputs/demo.png"
tokenring-xdit compare "$prompt" --ranks "$ranks" --dtype float32 --output "$sheet"
cat <<END

Open $sheet. From left to right: the picture of one rank, from the unmodified diffusers pipeline;
then four ranks through xDiT's Flux pipeline, with Ulysses, Ring and TokenRing attention. Below each
of them is its difference to the first, as amplified as it says. Under TokenRing the queries went
round the ring and the partial outputs came back, while keys and values stayed where they were.
END
