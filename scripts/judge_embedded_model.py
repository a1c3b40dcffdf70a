"""Measure the embedded model: prompts, pictures, and a pixel classifier that says what they show.

    python scripts/judge_embedded_model.py --count 200

Half of the prompts are like those of training, half hold a pair of colour and shape that no training
picture showed. Prints the share that is right, in each part and as a whole, and can save a sheet of
the pictures.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import torch
from diffusers import FluxPipeline
from embedded_judge import Judgement, judge
from embedded_scenes import Scene, random_scene
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from tokenring_xdit.pipelines.embedded import IMAGE_SIZE, MODEL_PATH

BATCH = 20
PARTS = ("right", "colour", "shape", "position", "ground")


def draw_all(pipe: FluxPipeline, scenes: list[Scene], steps: int, seed: int) -> list[Image.Image]:
    """One picture for each scene, from its caption."""
    pictures: list[Image.Image] = []
    for start in tqdm(range(0, len(scenes), BATCH), desc="drawing"):
        prompts = [scene.caption() for scene in scenes[start : start + BATCH]]
        generators = [torch.Generator().manual_seed(seed + start + i) for i in range(len(prompts))]
        pictures += pipe(
            prompt=prompts,
            width=IMAGE_SIZE,
            height=IMAGE_SIZE,
            num_inference_steps=steps,
            max_sequence_length=pipe.tokenizer_2.model_max_length,
            generator=generators,
        ).images
    return pictures


def share(verdicts: list[Judgement]) -> dict[str, float]:
    """Fraction of the verdicts that is right, part by part."""
    return {part: sum(getattr(v, part) for v in verdicts) / len(verdicts) for part in PARTS}


def sheet(scenes: list[Scene], pictures: list[Image.Image], verdicts: list[Judgement]) -> Image.Image:
    """Pictures with their captions, the wrong ones in red."""
    columns, cell, font = 8, 170, ImageFont.load_default(11)
    rows = -(-len(pictures) // columns)
    canvas = Image.new("RGB", (columns * cell, rows * cell), "white")
    pen = ImageDraw.Draw(canvas)
    for i, (scene, picture, verdict) in enumerate(zip(scenes, pictures, verdicts, strict=True)):
        x, y = i % columns * cell, i // columns * cell
        canvas.paste(picture.resize((128, 128), Image.Resampling.NEAREST), (x + 4, y + 4))
        words = scene.caption().replace(" on a ", "\non a ")
        pen.text((x + 4, y + 134), words, fill="black" if verdict.right else "red", font=font)
    return canvas


def main() -> None:
    """Draw, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL_PATH, help="FluxPipeline folder")
    parser.add_argument("--count", type=int, default=200, help="prompts of each kind")
    parser.add_argument("--steps", type=int, default=28, help="denoising steps")
    parser.add_argument("--seed", type=int, default=0, help="seed of prompts and noise")
    parser.add_argument("--sheet", type=Path, help="save the pictures of the held-out prompts")
    args = parser.parse_args()
    pipe = FluxPipeline.from_pretrained(args.model)
    pipe.set_progress_bar_config(disable=True)
    figures = {}
    for kind, held_out in (("seen pairs", False), ("held-out pairs", True)):
        rng = random.Random(args.seed + 1_000_003)  # not the training stream
        scenes = [random_scene(rng, held_out=held_out) for _ in range(args.count)]
        pictures = draw_all(pipe, scenes, args.steps, args.seed)
        verdicts = [judge(picture, scene) for picture, scene in zip(pictures, scenes, strict=True)]
        figures[kind] = share(verdicts)
        if args.sheet and held_out:
            sheet(scenes, pictures, verdicts).save(args.sheet)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
