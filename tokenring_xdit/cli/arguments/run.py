"""Arguments of ``tokenring-xdit run``."""

from __future__ import annotations

import argparse

__all__ = ["KEYS", "add_parser"]

KEYS = {
    "task": "picture (also for videos, the default) or text; or text-to-image, image-to-image, "
    "inpainting, text-to-video, image-to-video or video-to-video with the same model",
    "model": "folder or hub name of a model; by default the small one in this package",
    "prompt": "the prompt: a picture, or a question",
    "context": "file with a text that the prompts are about",
    "prompt_file": "file with one prompt on each line",
    "negative_prompt": "what the picture must not show",
    "image": "file or URL of the picture to start from, or [FILE, FILE]",
    "mask_image": "file of the mask, white where the picture is regenerated",
    "control_image": "file of the control picture",
    "control_mask": "file of the mask that a ControlNet for inpainting sees",
    "image_reference": "file of a reference picture, for inpainting",
    "last_image": "file of a video's last frame",
    "video": "file of the video to start from, or [FILE, FILE] of its frames",
    "mask": "the same of its mask, white where the video is regenerated",
    "controlnet": "folder or hub name of a ControlNet",
    "strength": "how far a picture is regenerated, from 0 to 1",
    "scheduler": "scheduler class of diffusers, instead of the model's own",
    "loras": "file, folder or hub name of a LoRA, or [{path: FILE, scale: 0.8}, ...]",
    "size": "pixels, or WIDTHxHEIGHT; what the model was trained for by default",
    "frames": "number of frames, for video models",
    "fps": "frames a second of the MP4",
    "steps": "denoising steps",
    "guidance": "guidance scale",
    "seed": "seed of the noise",
    "largest_side": "most pixels of width and height, against typing errors",
    "batch_size": "prompts generated together",
    "dtype": "float32, bfloat16 or float16",
    "tokenring_degree": "ranks that TokenRing shards the sequence over",
    "ulysses_degree": "ranks that Ulysses shards the heads over",
    "tokens_per_rank": "refuse texts that would put more tokens' keys on a rank",
    "schedule": "what the TokenRing ranks exchange and when; see schedule list",
    "attention_backend": "xfuser's kernel for attention on one rank",
    "cuda_graphs": "true: capture calls of the transformer as CUDA graphs, and replay them; needs GPUs",
    "output": "where the PNG or MP4 goes, or the TXT or JSON",
    "forecasts": "folder with what requests to 'serve' took, for forecasts; by default in the user's cache",
}
"""Keys of a config that are flags as well, by the same names; each task knows some of them."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "run",
        help="generate pictures or videos, or ask a language model, on several ranks",
        description="Run what a YAML config or flags say. Starts as many ranks as the degrees need; "
        "under torchrun it is one of the ranks. --KEY VALUE is the same as KEY=VALUE; 'config schema' lists all keys.",
        epilog='example: tokenring-xdit run --prompt "a red circle left of a blue square" --tokenring-degree 4, or '
        "tokenring-xdit run configs/embedded.yaml steps=4 seed=3",
    )
    parser.add_argument(
        "said", nargs="*", metavar="config or key=value", help="a YAML file, and values that replace those of it"
    )
    for key, what in KEYS.items():
        parser.add_argument(f"--{key.replace('_', '-')}", metavar="VALUE", help=what)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="say what would run and, as far as a server has found out, how long and in how much memory; load nothing",
    )
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    parser.set_defaults(action="run:run_command", late="said")
