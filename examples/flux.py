"""A picture of FLUX.1 over the ranks that torchrun starts: one line more than without.

torchrun --nproc-per-node 4 examples/flux.py --prompt "a photo of a fox" --size 2048
torchrun --nproc-per-node 2 examples/flux.py --model embedded --prompt "a red circle" --size 64    # no GPU needed
"""

from __future__ import annotations

import argparse
import os

import torch
from diffusers import FluxPipeline

import tokenring_xdit
from tokenring_xdit.pipelines.embedded import MODEL_PATH

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="black-forest-labs/FLUX.1-dev", help="folder, hub name, or 'embedded'")
parser.add_argument("--prompt", default="a photo of a fox")
parser.add_argument("--size", type=int, help="side of the picture in pixels")
parser.add_argument("--steps", type=int, default=28)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--schedule", default="auto", help="of TokenRing: see docs/schedules.md")
parser.add_argument("--output", default="flux.png")
args = parser.parse_args()

gpu = torch.cuda.is_available()
device = f"cuda:{os.environ['LOCAL_RANK']}" if gpu else "cpu"
model = str(MODEL_PATH) if args.model == "embedded" else args.model
pipe = FluxPipeline.from_pretrained(model, torch_dtype=torch.bfloat16 if gpu else torch.float32).to(device)

tokenring_xdit.parallelize(pipe, tokenring_degree=int(os.environ["WORLD_SIZE"]), schedule=args.schedule)

image = pipe(
    args.prompt,
    height=args.size,
    width=args.size,
    num_inference_steps=args.steps,
    generator=torch.Generator().manual_seed(args.seed),
).images[0]
if os.environ["RANK"] == "0":  # the picture is the same on every rank
    image.save(args.output)
