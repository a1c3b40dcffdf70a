"""Train the small Flux that ships with tokenring-xdit, from nothing, on pictures drawn here.

    python scripts/train_embedded_model.py --work /tmp/embedded --seed 0

Four stages, resumed where an interrupted run left them: a VAE on drawn pictures; T5 on where the objects of
a caption stand (two minutes, begun anew); the transformer and CLIP (flow matching on the VAE's latents, T5 frozen, as
Flux was trained); the export of a diffusers ``FluxPipeline`` folder. The measurement is
``scripts/judge_embedded_model.py``; the figures stand in the model card beside the weights.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import math
import random
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
)
from embedded_scenes import (
    COLOURS,
    DrawnShape,
    Scene,
    draw,
    random_scene,
    vocabulary,
)
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, trainers
from torch import nn
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

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
    text_steps: int = 1_200
    text_batch: int = 128
    text_lr: float = 2e-3
    flow_steps: int = 6_000
    flow_batch: int = 64
    flow_lr: float = 1e-3
    pair_share: float = 0.6
    pooled_dropout: float = 0.5
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


def make_clip_tokenizer(captions: list[str], work: Path) -> CLIPTokenizer:
    """CLIP's tokenizer: byte pairs of the captions, found once and kept.

    Training numbers the pairs in another order in each process, so it must not be done again.
    """
    kept = work / "tokenizer"
    if kept.exists():
        return CLIPTokenizer.from_pretrained(kept)
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
    tokenizer = CLIPTokenizer(
        vocab=state["vocab"],
        merges=[tuple(merge) for merge in state["merges"]],
        model_max_length=TEXT_TOKENS,
    )
    tokenizer.save_pretrained(kept)
    return tokenizer


def make_clip(clip_tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A small CLIP text encoder."""
    specials = {name: clip_tokenizer.convert_tokens_to_ids(name) for name in ("<|startoftext|>", "<|endoftext|>")}
    return CLIPTextModel(
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


def make_t5() -> tuple[T5Tokenizer, T5EncoderModel]:
    """A small T5 encoder, and a tokenizer of whole words."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    words = vocabulary()
    pieces += [(f"\u2581{word}", -2.0) for word in (*words, *map(str.capitalize, words))]
    pieces += [(mark, -3.0) for mark in (".", ",")]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=TEXT_TOKENS)
    t5 = T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=128,
            d_kv=32,
            d_ff=256,
            num_layers=2,
            num_heads=4,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
        )
    )
    return tokenizer, t5


def as_typed(caption: str, rng: random.Random) -> str:
    """Now and then a capital and a full stop, as people type them."""
    if rng.random() < 0.2:
        caption = caption[0].upper() + caption[1:]
    return f"{caption}." if rng.random() < 0.1 else caption


@dataclass(frozen=True)
class Data:
    """The training set.

    Attributes:
        pictures: ``[N, 3, 64, 64]``, uint8.
        captions: One for each picture.
        scenes: What they say.
        different: ``[N]``, which pictures show two objects that differ.
    """

    pictures: torch.Tensor
    captions: list[str]
    scenes: list[Scene]
    different: torch.Tensor


def make_data(recipe: Recipe) -> Data:
    """Draw the training set."""
    rng = random.Random(recipe.seed)
    pictures, captions, scenes = [], [], []
    for _ in tqdm(range(recipe.pictures), desc="drawing"):
        scene = random_scene(rng, held_out=False)
        pictures.append(np.asarray(draw(scene, rng)))
        captions.append(as_typed(scene.caption(rng), rng))
        scenes.append(scene)
    stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    return Data(stacked, captions, scenes, torch.tensor([len(set(scene.items)) == 2 for scene in scenes]))


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


def mixed_precision() -> torch.autocast:
    """bf16 where this CPU computes in it; elsewhere it would be emulated, several times slower than fp32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported())


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
        with mixed_precision():
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


def places_of_words(scene: Scene, words: list[str]) -> list[list[tuple[float, float]]]:
    """For each word, where what it names stands: nowhere, in one place, or in two ("two red circles")."""
    naming = {*COLOURS, *(shape.value for shape in DrawnShape), *(f"{shape.value}s" for shape in DrawnShape)}
    counted = "two" in words
    places: list[list[tuple[float, float]]] = []
    seen = 0
    for word in words:
        if word not in naming:
            places.append([])
        else:
            places.append(list(scene.centres) if counted else [scene.centres[seen // 2]])  # colour, then shape
            seen += 1
    return places


def codes_of_words(scenes: list[Scene], words: list[list[str]], width: int) -> torch.Tensor:
    """What T5 learns to say of each word: a random vector for the word plus one for each place it is about.

    Image tokens see the text tokens as a set. "Red, on the left" in one vector tells them which object is
    red; "red" beside "left" does not. Every place has the same vector in every sentence and for every
    word, so that one mechanism, look for the words about the place where you are, serves all of them.

    Returns:
        ``[N, 24, width]``, of unit variance.
    """
    generator = torch.Generator().manual_seed(0)
    table: dict[object, torch.Tensor] = {}

    def vector(key: object) -> torch.Tensor:
        if key not in table:
            table[key] = torch.randn(width, generator=generator)
        return table[key]

    codes = torch.zeros(len(scenes), TEXT_TOKENS, width)
    for row, (scene, caption) in enumerate(zip(scenes, words, strict=True)):
        for column, (word, places) in enumerate(zip(caption, places_of_words(scene, caption), strict=True)):
            # Single objects and pairs stand in slightly different places, all of them on a grid of three by three.
            thirds = [vector((int(3 * x), int(3 * y))) for x, y in places]
            codes[row, column] = torch.stack([vector(word), *thirds]).sum(0)
    return codes / codes.square().mean(-1, keepdim=True).sqrt()


def train_text(recipe: Recipe, data: Data, work: Path) -> tuple[T5Tokenizer, T5EncoderModel, torch.Tensor]:
    """Stage 2: T5 learns to say of each word what it is about (:func:`codes_of_words`).

    Flux itself stands on text encoders that were trained before; trained along with the transformer
    instead, ours never told the first object from the second, and half of the pairs came out swapped.

    Returns:
        Tokenizer and encoder, and what it says of every caption, ``[N, 24, 128]``.
    """
    torch.manual_seed(recipe.seed)
    tokenizer, t5 = make_t5()
    ids = tokenizer(data.captions, padding="max_length", max_length=TEXT_TOKENS, return_tensors="pt").input_ids
    path = work / "text.pt"
    if path.exists():
        t5.load_state_dict(torch.load(path, weights_only=True))
    else:
        words = [
            [token.strip("\u2581").lower() for token in tokenizer.convert_ids_to_tokens(row)] for row in ids.tolist()
        ]
        wanted = codes_of_words(data.scenes, words, t5.config.d_model)
        optimizer = torch.optim.AdamW(t5.parameters(), lr=recipe.text_lr, betas=(0.9, 0.98), weight_decay=0.01)
        bar = tqdm(range(recipe.text_steps), desc="text")
        for step in bar:
            index = mixed_batch(data.different, recipe.text_batch, recipe.pair_share, recipe.seed * 1_000_003 + step)
            for group in optimizer.param_groups:
                group["lr"] = recipe.text_lr * cosine(step, recipe.text_steps, 100)
            said = t5(ids[index])[0]
            loss = (said - wanted[index]).square().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(t5.parameters(), 1.0)
            optimizer.step()
            if step % 25 == 0:
                bar.set_postfix(loss=f"{loss:.4f}")
        save(path, t5.state_dict())
    t5.eval().requires_grad_(False)
    with torch.no_grad():
        return tokenizer, t5, torch.cat([t5(part)[0] for part in ids.split(1024)])


def train_flow(
    recipe: Recipe, data: Data, latents: torch.Tensor, words: torch.Tensor, clip_tokenizer: CLIPTokenizer, work: Path
) -> nn.ModuleDict:
    """Stage 3: flow matching of the transformer, CLIP along with it; returns the averaged weights."""
    torch.manual_seed(recipe.seed)
    parts = nn.ModuleDict({"transformer": make_transformer(), "clip": make_clip(clip_tokenizer)})
    average = copy.deepcopy(parts).requires_grad_(False)
    ids = clip_tokenizer(data.captions, padding="max_length", max_length=TEXT_TOKENS, return_tensors="pt").input_ids
    parameters = list(parts.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=recipe.flow_lr, betas=(0.9, 0.98), weight_decay=0.01)
    path, start = work / "flow.pt", 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        parts.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    image_ids = FluxPipeline._prepare_latent_image_ids(1, 8, 8, torch.device("cpu"), torch.float32)
    text_ids = torch.zeros(TEXT_TOKENS, 3)
    bar = tqdm(range(start, recipe.flow_steps), initial=start, total=recipe.flow_steps, desc="flow")
    recent: list[tuple[float, float]] = []
    for step in bar:
        index = mixed_batch(data.different, recipe.flow_batch, recipe.pair_share, recipe.seed * 1_000_003 + step)
        for group in optimizer.param_groups:
            group["lr"] = recipe.flow_lr * cosine(step, recipe.flow_steps, 200)
        torch.manual_seed(recipe.seed * 7919 + 1_000_000 + step)
        clean = latents[index]
        noise = torch.randn_like(clean)
        t = noise_levels(len(index))
        noisy = torch.lerp(clean, noise, t[:, None, None])
        # Often without CLIP's one vector of the whole caption: words combine to what was never seen, captions do not.
        kept = torch.rand(len(index), 1) >= recipe.pooled_dropout
        with mixed_precision():
            velocity = parts["transformer"](
                hidden_states=noisy,
                encoder_hidden_states=words[index],
                pooled_projections=parts["clip"](ids[index]).pooler_output * kept,
                timestep=t,
                img_ids=image_ids,
                txt_ids=text_ids,
                return_dict=False,
            )[0]
        error = (velocity.float() - (noise - clean)).square().mean((1, 2))
        loss = error.mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        decay = min(recipe.ema, (step + 1) / (step + 10))
        torch._foreach_lerp_(list(average.parameters()), parameters, 1.0 - decay)
        recent.append((loss.item(), error[t > 0.85].mean().item()))
        if (step + 1) % 25 == 0:
            every, noisiest = np.nanmean(recent[-100:], axis=0)
            bar.set_postfix(loss=f"{every:.4f}", noisy=f"{noisiest:.4f}")
        if (step + 1) % 100 == 0 or step + 1 == recipe.flow_steps:
            log.info("step %d loss %.4f, above t = 0.85 %.4f", step + 1, *np.nanmean(recent[-100:], axis=0))
            state = {"model": parts.state_dict(), "average": average.state_dict()}
            save(path, {**state, "optimizer": optimizer.state_dict(), "step": step + 1})
    return average.eval()


def noise_levels(count: int) -> torch.Tensor:
    """Times of flow matching: logit-normal for half of them, and uniform in [0.7, 1] for the other.

    What stands where is decided at high noise, which a logit-normal alone seldom visits.
    """
    half = count // 2
    return torch.cat([torch.sigmoid(torch.randn(count - half)), 0.7 + 0.3 * torch.rand(half)])


def export(recipe: Recipe, pipe: FluxPipeline, target: Path) -> None:
    """Stage 4: write the ``FluxPipeline`` folder, small enough to live in the repository."""
    # Half precision keeps the folder small. The text encoders stay in fp32: transformers loads
    # weights in the dtype of the file, while diffusers' own models come back as fp32 by default.
    for name in ("transformer", "vae"):
        setattr(pipe, name, copy.deepcopy(getattr(pipe, name)).half())
    pipe.save_pretrained(target, safe_serialization=True)
    make_older_transformers_load(target)
    (target / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2) + "\n")
    size = sum(f.stat().st_size for f in target.rglob("*") if f.is_file())
    log.info("wrote %s (%.1f MB)", target, size / 1e6)


def make_older_transformers_load(folder: Path) -> None:
    """Change a pipeline that transformers 5 has saved so that transformers 4 loads it too.

    There the tokenizers that are read from ``tokenizer.json`` have classes of their own, and the weights of CLIP a
    prefix, without which they are drawn at random.

    Args:
        folder: The pipeline.
    """
    clip = folder / "text_encoder" / "model.safetensors"
    save_file({f"text_model.{name}": weight for name, weight in load_file(clip).items()}, clip, {"format": "pt"})
    for file in (folder / "model_index.json", *folder.glob("tokenizer*/tokenizer_config.json")):
        text = re.sub(r'"(CLIP|T5)Tokenizer"', r'"\1TokenizerFast"', file.read_text())
        content = json.loads(text)
        if not content.get("extra_special_tokens", True):
            del content["extra_special_tokens"]  # an empty list, where transformers 4 wants a mapping
        file.write_text(json.dumps(content, indent=2) + "\n")


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
    data = make_data(recipe)
    vae = train_vae(recipe, data.pictures, args.work)
    log.info("vae done after %.0f s", time.monotonic() - began)
    latents = encode_all(vae, data.pictures, args.work)
    t5_tokenizer, t5, words = train_text(recipe, data, args.work)
    log.info("text encoder done after %.0f s", time.monotonic() - began)
    clip_tokenizer = make_clip_tokenizer(data.captions, args.work)
    if args.export_now:
        recipe = replace(recipe, flow_steps=torch.load(args.work / "flow.pt", weights_only=True)["step"])
    parts = train_flow(recipe, data, latents, words, clip_tokenizer, args.work)
    log.info("transformer done after %.0f s", time.monotonic() - began)
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=False),
        vae=vae,
        text_encoder=parts["clip"],
        tokenizer=clip_tokenizer,
        text_encoder_2=t5,
        tokenizer_2=t5_tokenizer,
        transformer=parts["transformer"],
    )
    export(recipe, pipe, args.output or args.work / "pipeline")


if __name__ == "__main__":
    main()
