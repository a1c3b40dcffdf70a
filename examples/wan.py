"""A video of Wan over the ranks that torchrun starts. Writing MP4 files needs the extra 'video'.

torchrun --nproc-per-node 8 examples/wan.py --prompt "a fox runs through fresh snow"
"""

from __future__ import annotations

import argparse
import os

import torch
from diffusers import WanPipeline
from diffusers.utils import export_to_video

import tokenring_xdit

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="Wan-AI/Wan2.1-T2V-14B-Diffusers", help="folder or hub name")
parser.add_argument("--prompt", default="a fox runs through fresh snow")
parser.add_argument("--height", type=int, default=720)
parser.add_argument("--width", type=int, default=1280)
parser.add_argument("--frames", type=int, default=81)
parser.add_argument("--steps", type=int, default=50)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--ulysses", type=int, default=1, help="degree of Ulysses; TokenRing has the rest of the ranks")
parser.add_argument("--output", default="wan.mp4")
args = parser.parse_args()

gpu = torch.cuda.is_available()
device = f"cuda:{os.environ['LOCAL_RANK']}" if gpu else "cpu"
pipe = WanPipeline.from_pretrained(args.model, torch_dtype=torch.bfloat16 if gpu else torch.float32).to(device)

tokenring_xdit.parallelize(
    pipe, tokenring_degree=int(os.environ["WORLD_SIZE"]) // args.ulysses, ulysses_degree=args.ulysses
)

frames = pipe(
    args.prompt,
    height=args.height,
    width=args.width,
    num_frames=args.frames,
    num_inference_steps=args.steps,
    generator=torch.Generator().manual_seed(args.seed),
).frames[0]
if os.environ["RANK"] == "0":  # the video is the same on every rank
    export_to_video(frames, args.output, fps=16)
