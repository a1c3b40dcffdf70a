"""Train the small Flux that ships with tokenring-xdit, from nothing, on pictures drawn here.

    python scripts/train_embedded_model.py --work /tmp/embedded --seed 0

Three stages, each resumed where an interrupted run left it: a VAE on drawn pictures, then the
transformer with both text encoders (flow matching, on the VAE's latents), then the export of a
diffusers ``FluxPipeline`` folder. Two CPU cores need about an hour and a half. The measurement is
``scripts/judge_embedded_model.py``; the figures stand in the model card beside the weights.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import math
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
)
from tokenizers import Tokenizer, models, normalizers, trainers
from torch import nn
from torch.nn import functional
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from tokenring_xdit.pipelines.embedded.scenes import draw, random_scene, vocabulary

log = logging.getLogger("train_embedded_model")

TEXT_TOKENS = 24


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result; kept beside the checkpoints and beside the weights."""

    seed: int = 0
    pictures: int = 40_000
    vae_steps: int = 1_800
    vae_batch: int = 32
    vae_lr: float = 2e-3
    flow_steps: int = 6_500
    flow_batch: int = 64
    flow_lr: float = 1e-3
    text_lr_factor: float = 2.0
    pair_share: float = 0.7
    ema: float = 0.999


def make_vae() -> AutoencoderKL:
    """A KL autoencoder that shrinks 64 x 64 pixels to 16 x 16 latents of four channels."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(24, 48, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=1.0,
        shift_factor=0.0,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def make_transformer() -> FluxTransformer2DModel:
    """The Flux architecture, small: two double and four single blocks, four heads of 48."""
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=48,
        num_attention_heads=4,
        joint_attention_dim=128,
        pooled_projection_dim=64,
        guidance_embeds=False,
        axes_dims_rope=(16, 16, 16),
    )


def make_text(captions: list[str]) -> tuple[CLIPTokenizer, CLIPTextModel, T5Tokenizer, T5EncoderModel]:
    """Tokenizers over the captions' words, and two small text encoders trained with the transformer."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = CLIPTokenizer()._tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        end_of_word_suffix="</w>",
        initial_alphabet=[chr(c) for c in range(ord("a"), ord("z") + 1)],
        show_progress=False,
    )
    bpe.train_from_iterator(captions, trainer)
    state = json.loads(bpe.to_str())["model"]
    clip_tokenizer = CLIPTokenizer(
        vocab=state["vocab"],
        merges=[tuple(merge) for merge in state["merges"]],
        model_max_length=TEXT_TOKENS,
    )
    specials = {name: clip_tokenizer.convert_tokens_to_ids(name) for name in ("<|startoftext|>", "<|endoftext|>")}
    clip = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(clip_tokenizer),
            hidden_size=64,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=TEXT_TOKENS,
            projection_dim=64,
            bos_token_id=specials["<|startoftext|>"],
            eos_token_id=specials["<|endoftext|>"],
            pad_token_id=specials["<|endoftext|>"],
        )
    )
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    words = vocabulary()
    pieces += [(f"\u2581{word}", -2.0) for word in (*words, *map(str.capitalize, words))]
    pieces += [(mark, -3.0) for mark in (".", ",")]
    t5_tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=TEXT_TOKENS)
    t5 = T5EncoderModel(
        T5Config(
            vocab_size=len(t5_tokenizer),
            d_model=128,
            d_kv=32,
            d_ff=256,
            num_layers=2,
            num_heads=4,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
        )
    )
    let_words_see_their_order(t5)
    return clip_tokenizer, clip, t5_tokenizer, t5


def let_words_see_their_order(t5: T5EncoderModel) -> None:
    """Start the four heads on the word before, the word after, all before and all after.

    Text tokens have no position of their own in Flux, so which colour belongs to which shape, and
    which object comes first, has to come from T5's relative positions. With random ones and T5's own
    scale of the queries, attention saturates on single words early on, the order of the words never
    enters, and of two different objects half are drawn swapped, after 6500 steps still.
    """
    bias = t5.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    half = bias.shape[0] // 2  # buckets of words before, then of words after
    with torch.no_grad():
        for block in t5.encoder.block:
            block.layer[0].SelfAttention.q.weight.mul_(0.02)
        bias.zero_()
        bias[1, 0] = bias[half + 1, 1] = 4.0
        bias[1:half, 2] = bias[half + 1 :, 3] = 4.0


def as_typed(caption: str, rng: random.Random) -> str:
    """Now and then a capital and a full stop, as people type them."""
    if rng.random() < 0.2:
        caption = caption[0].upper() + caption[1:]
    return f"{caption}." if rng.random() < 0.1 else caption


def make_data(recipe: Recipe) -> tuple[torch.Tensor, list[str], torch.Tensor]:
    """Draw the training set.

    Returns:
        Pictures ``[N, 3, 64, 64]`` as uint8, their captions, and which show two different objects.
    """
    rng = random.Random(recipe.seed)
    pictures, captions, different = [], [], []
    for _ in tqdm(range(recipe.pictures), desc="drawing"):
        scene = random_scene(rng, held_out=False)
        pictures.append(np.asarray(draw(scene, rng)))
        captions.append(as_typed(scene.caption(rng), rng))
        different.append(len(set(scene.items)) == 2)
    stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    return stacked, captions, torch.tensor(different)


def batches(count: int, size: int, seed: int, start: int) -> Iterator[torch.Tensor]:
    """Endless shuffled index batches; batch ``start`` on, the same for the same seed."""
    per_epoch = count // size
    step = start
    while True:
        epoch, offset = divmod(step, per_epoch)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
        for position in range(offset, per_epoch):
            yield order[position * size : (position + 1) * size]
        step = (epoch + 1) * per_epoch


def mixed_batch(different: torch.Tensor, size: int, share: float, seed: int) -> torch.Tensor:
    """Indices of a batch of which ``share`` shows two different objects, the hardest to learn."""
    generator = torch.Generator().manual_seed(seed)
    many = round(size * share)
    pools = (different.nonzero()[:, 0], (~different).nonzero()[:, 0])
    draws = [
        p[torch.randint(len(p), (n,), generator=generator)] for p, n in zip(pools, (many, size - many), strict=True)
    ]
    return torch.cat(draws)


def to_unit(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 ``[B, 3, H, W]`` to floats in ``[-1, 1]``."""
    return pictures.float() / 127.5 - 1.0


def cosine(step: int, total: int, warmup: int) -> float:
    """Learning-rate factor: linear warm-up, then a cosine to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def save(path: Path, state: dict[str, object]) -> None:
    """Write a checkpoint so that an interruption leaves the old one or the new one."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def remember(recipe: Recipe, work: Path) -> None:
    """Keep checkpoints of different recipes apart; a run may be continued with another number of flow steps."""
    path = work / "recipe.json"
    kept = json.loads(path.read_text()) if path.exists() else asdict(recipe)
    if {**kept, "flow_steps": 0} != {**asdict(recipe), "flow_steps": 0}:
        raise SystemExit(f"{work} holds checkpoints of another recipe: {kept}. Use another folder")
    path.write_text(json.dumps(asdict(recipe), indent=2))


def train_vae(recipe: Recipe, pictures: torch.Tensor, work: Path) -> AutoencoderKL:
    """Stage 1: reconstruct drawn pictures; the scale and shift are measured at its end."""
    torch.manual_seed(recipe.seed)
    vae = make_vae()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=recipe.vae_lr, weight_decay=0.0)
    path, start = work / "vae.pt", 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        vae.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    bar = tqdm(range(start, recipe.vae_steps), initial=start, total=recipe.vae_steps, desc="vae")
    for step, index in zip(bar, batches(len(pictures), recipe.vae_batch, recipe.seed, start), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = recipe.vae_lr * cosine(step, recipe.vae_steps, 100)
        target = to_unit(pictures[index])
        torch.manual_seed(recipe.seed * 7919 + step)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(target).latent_dist
            output = vae.decode(posterior.sample()).sample
        error = (output.float() - target).abs()
        loss = error.mean() + 2.0 * error.square().mean() + 1e-6 * posterior.kl().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        if step % 25 == 0:
            bar.set_postfix(l1=f"{error.mean().item():.4f}")
        if (step + 1) % 250 == 0 or step + 1 == recipe.vae_steps:
            save(path, {"model": vae.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1})
    return vae.eval()


@torch.no_grad()
def encode_all(vae: AutoencoderKL, pictures: torch.Tensor, work: Path) -> torch.Tensor:
    """Encode the training set once; sets the VAE's scale and shift from it.

    Returns:
        Packed latents ``[N, 64, 16]``, of about unit variance.
    """
    path = work / "latents.pt"
    if path.exists():
        latents = torch.load(path, weights_only=True)
    else:
        parts = []
        for chunk in tqdm(pictures.split(256), desc="encoding"):
            parts.append(vae.encode(to_unit(chunk)).latent_dist.mode())
        latents = torch.cat(parts)
        save(path, latents)
    shift, scale = latents.mean().item(), 1.0 / latents.std().item()
    vae.register_to_config(shift_factor=shift, scaling_factor=scale)
    latents = (latents - shift) * scale
    count, channels, height, width = latents.shape
    return FluxPipeline._pack_latents(latents, count, channels, height, width)


def train_flow(
    recipe: Recipe, latents: torch.Tensor, captions: list[str], different: torch.Tensor, work: Path
) -> nn.ModuleDict:
    """Stage 2: flow matching over transformer and text encoders; returns the averaged weights."""
    torch.manual_seed(recipe.seed)
    clip_tokenizer, clip, t5_tokenizer, t5 = make_text(captions)
    encode = {"padding": "max_length", "max_length": TEXT_TOKENS, "return_tensors": "pt"}
    clip_ids = clip_tokenizer(captions, **encode).input_ids
    t5_ids = t5_tokenizer(captions, **encode).input_ids
    parts = nn.ModuleDict({"transformer": make_transformer(), "clip": clip, "t5": t5})
    average = copy.deepcopy(parts).requires_grad_(False)
    text = [*parts["clip"].parameters(), *parts["t5"].parameters()]
    groups = [{"params": list(parts["transformer"].parameters())}, {"params": text}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.flow_lr, betas=(0.9, 0.98), weight_decay=0.01)
    path, start = work / "flow.pt", 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        parts.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    image_ids = FluxPipeline._prepare_latent_image_ids(1, 8, 8, torch.device("cpu"), torch.float32)
    text_ids = torch.zeros(TEXT_TOKENS, 3)
    parameters = [p for p in parts.parameters() if p.requires_grad]
    shadows = list(average.parameters())
    bar = tqdm(range(start, recipe.flow_steps), initial=start, total=recipe.flow_steps, desc="flow")
    recent: list[float] = []
    for step in bar:
        index = mixed_batch(different, recipe.flow_batch, recipe.pair_share, recipe.seed * 1_000_003 + step)
        for group, factor in zip(optimizer.param_groups, (1.0, recipe.text_lr_factor), strict=True):
            group["lr"] = recipe.flow_lr * factor * cosine(step, recipe.flow_steps, 200)
        torch.manual_seed(recipe.seed * 7919 + 1_000_000 + step)
        clean = latents[index]
        noise = torch.randn_like(clean)
        t = torch.sigmoid(torch.randn(len(index)) + 0.3)
        noisy = torch.lerp(clean, noise, t[:, None, None])
        with torch.autocast("cpu", torch.bfloat16):
            words = parts["t5"](t5_ids[index])[0]
            pooled = parts["clip"](clip_ids[index]).pooler_output
            velocity = parts["transformer"](
                hidden_states=noisy,
                encoder_hidden_states=words,
                pooled_projections=pooled,
                timestep=t,
                img_ids=image_ids,
                txt_ids=text_ids,
                return_dict=False,
            )[0]
        loss = functional.mse_loss(velocity.float(), noise - clean)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        decay = min(recipe.ema, (step + 1) / (step + 10))
        torch._foreach_lerp_(shadows, list(parts.parameters()), 1.0 - decay)
        recent.append(loss.item())
        if step % 25 == 0:
            bar.set_postfix(loss=f"{np.mean(recent[-200:]):.4f}")
        if (step + 1) % 250 == 0 or step + 1 == recipe.flow_steps:
            log.info("step %d loss %.4f", step + 1, np.mean(recent[-250:]))
            state = {"model": parts.state_dict(), "average": average.state_dict()}
            save(path, {**state, "optimizer": optimizer.state_dict(), "step": step + 1})
    return average.eval()


def export(recipe: Recipe, vae: AutoencoderKL, parts: nn.ModuleDict, captions: list[str], target: Path) -> None:
    """Stage 3: write the ``FluxPipeline`` folder, small enough to live in the repository."""
    clip_tokenizer, _, t5_tokenizer, _ = make_text(captions)
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=False),
        vae=vae,
        text_encoder=parts["clip"],
        tokenizer=clip_tokenizer,
        text_encoder_2=parts["t5"],
        tokenizer_2=t5_tokenizer,
        transformer=parts["transformer"],
    )
    # Half precision keeps the folder small. The text encoders stay in fp32: transformers loads
    # weights in the dtype of the file, while diffusers' own models come back as fp32 by default.
    for name in ("transformer", "vae"):
        setattr(pipe, name, copy.deepcopy(getattr(pipe, name)).half())
    pipe.save_pretrained(target, safe_serialization=True)
    (target / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2) + "\n")
    size = sum(f.stat().st_size for f in target.rglob("*") if f.is_file())
    log.info("wrote %s (%.1f MB)", target, size / 1e6)


def main() -> None:
    """Run the stages that are still to be done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--output", type=Path, default=None, help="where to write the pipeline folder")
    for name, value in asdict(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--export-now", action="store_true", help="export the last checkpoint without training")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    recipe = Recipe(**{name: getattr(args, name) for name in asdict(Recipe())})
    args.work.mkdir(parents=True, exist_ok=True)
    remember(recipe, args.work)
    began = time.monotonic()
    pictures, captions, different = make_data(recipe)
    vae = train_vae(recipe, pictures, args.work)
    log.info("vae done after %.0f s", time.monotonic() - began)
    latents = encode_all(vae, pictures, args.work)
    if args.export_now:
        parts = nn.ModuleDict(
            {"transformer": make_transformer(), **dict(zip(("clip", "t5"), make_text(captions)[1::2], strict=True))}
        )
        parts.load_state_dict(torch.load(args.work / "flow.pt", weights_only=True)["average"])
    else:
        parts = train_flow(recipe, latents, captions, different, args.work)
    log.info("flow done after %.0f s", time.monotonic() - began)
    export(recipe, vae, parts, captions, args.output or args.work / "pipeline")


if __name__ == "__main__":
    main()
