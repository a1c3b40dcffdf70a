"""Tiny text and image encoders with their tokenizers, built in memory, and weights of a lively scale."""

from __future__ import annotations

import string
from typing import Any

import torch
from torch import nn

from tests.support.families import tokenizers

PROMPTS = ["a red fox runs across the snow", "two boats drift on a calm lake at dusk, seen from above"]
NEGATIVE_PROMPT = "blurry, low quality"
TEXT_DIM = 32
CLIP_TOKENS = 77
TEXT_SEED = 21
VOCABULARY = (
    "a an the of on in at to by from over under across above below with and or no not is seen "
    "red green blue white black small large calm fast slow old new low high blurry dark bright "
    "fox dog cat bird boat boats car tree lake snow sea city street sky rain dusk dawn man woman "
    "runs run drift drifts walks sits flies falls turns quality video picture camera one two three"
)
WORDS = sorted(VOCABULARY.split())
CHARACTERS = string.ascii_letters + string.digits + string.punctuation


def randomise_weights(module: nn.Module, seed: int, *, gain: float = 1.0, bias: float = 0.1) -> None:
    """Draw all weights again so that every layer keeps the scale of its input and nothing stays at zero.

    Args:
        module: The model whose parameters are replaced; a subclass with the same parameters gets the same values.
        seed: Seed of the draw.
        gain: Scale of what a linear layer or a convolution makes of an input of unit scale.
        bias: Standard deviation of biases and of what is added to the ones of norms.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = {
        id(part.weight) for part in module.modules() if "norm" in type(part).__name__.lower() and _has_vector(part)
    }
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if id(parameter) in norms:
                parameter.copy_(1.0 + bias * noise)
            elif name.endswith("weight") and parameter.ndim > 1:
                parameter.copy_(noise * gain / parameter[0].numel() ** 0.5)
            elif name.endswith(("bias", "gamma")):
                parameter.copy_(bias * noise + name.endswith("gamma"))
            else:
                parameter.copy_(0.3 * noise)


def _has_vector(part: nn.Module) -> bool:
    weight = getattr(part, "weight", None)
    return isinstance(weight, nn.Parameter) and weight.ndim == 1


def video_call(
    *,
    guidance: float,
    prompts: list[str] | None = None,
    height: int = 128,
    width: int = 96,
    frames: int = 9,
    steps: int = 2,
    text_tokens: int | None = 32,
    negative_prompt: str | None = NEGATIVE_PROMPT,
    **options: Any,
) -> dict[str, Any]:
    """Arguments of a call of a pipeline that makes videos of prompts, and returns latents.

    Args:
        guidance: Scale of the guidance.
        prompts: One prompt for each video.
        height: Height in pixels.
        width: Width in pixels.
        frames: Frames of the video.
        steps: Denoising steps.
        text_tokens: Length that the prompts are padded to; ``None`` where the pipeline takes no number.
        negative_prompt: Text to guide away from.
        **options: Other arguments of the call.

    Returns:
        The arguments, good for one call.
    """
    prompts = prompts or PROMPTS[:1]
    return {
        "prompt": prompts,
        **({} if negative_prompt is None else {"negative_prompt": [negative_prompt] * len(prompts)}),
        "height": height,
        "width": width,
        "num_frames": frames,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        **({} if text_tokens is None else {"max_sequence_length": text_tokens}),
        "output_type": "latent",
        "generator": torch.Generator().manual_seed(5),
        **options,
    }


def make_t5_tokenizer(*, max_length: int = 512) -> Any:
    """A tokenizer of T5's that knows ``WORDS`` as single pieces and spells all other words."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(f"\u2581{word}", -2.0) for word in WORDS if len(word) > 1]
    pieces += [(f"\u2581{letter}", -4.0) for letter in string.ascii_letters]
    pieces += [("\u2581", -5.0), *((letter, -5.0) for letter in CHARACTERS)]
    return tokenizers.t5(pieces, length=max_length)


def make_t5(*, dim: int = TEXT_DIM, max_length: int = 512) -> tuple[Any, Any]:
    """A tiny tokenizer of T5's and ``T5EncoderModel``."""
    from transformers import T5Config, T5EncoderModel

    tokenizer = make_t5_tokenizer(max_length=max_length)
    torch.manual_seed(TEXT_SEED)
    return tokenizer, T5EncoderModel(T5Config(**_t5_sizes(tokenizer, dim))).eval()


def make_umt5(*, dim: int = TEXT_DIM, max_length: int = 512) -> tuple[Any, Any]:
    """A tiny tokenizer of T5's and ``UMT5EncoderModel``, as Wan uses them."""
    from transformers import UMT5Config, UMT5EncoderModel

    tokenizer = make_t5_tokenizer(max_length=max_length)
    torch.manual_seed(TEXT_SEED + 1)
    return tokenizer, UMT5EncoderModel(UMT5Config(**_t5_sizes(tokenizer, dim))).eval()


def _t5_sizes(tokenizer: Any, dim: int) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "d_model": dim,
        "d_kv": dim // 4,
        "d_ff": 2 * dim,
        "num_layers": 2,
        "num_heads": 4,
        "dropout_rate": 0.0,
        "feed_forward_proj": "gated-gelu",
    }


def make_llama(*, dim: int = TEXT_DIM, template: str = "") -> tuple[Any, Any]:
    """A tiny Llama 3 tokenizer and ``LlamaModel``, as HunyuanVideo uses them.

    The tokenizer splits text as Llama 3 does and, as Llama 3, holds each piece of the template as one token, so that
    the template is as long as with the real vocabulary. Words of prompts outside ``WORDS`` are spelled in bytes.

    Args:
        dim: Width of the model.
        template: Text around a prompt, with ``{}`` in its place.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

    specials = [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
        "<pad>",
    ]
    split = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    known = [template, *(form for word in WORDS for form in (word, f" {word}"))]
    for special in specials:
        known = [part for text in known for part in text.split(special)]
    pieces = {piece for text in known for part in text.split("{}") for piece, _ in pre_tokenizer.pre_tokenize_str(part)}
    names = sorted({*pieces, *pre_tokenizers.ByteLevel.alphabet()})
    vocabulary = {name: index for index, name in enumerate(names)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizer
    backend.add_special_tokens(specials)
    begin = specials[0]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, backend.token_to_id(begin))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=begin,
        eos_token="<|end_of_text|>",
        pad_token="<pad>",
        padding_side="right",
        model_max_length=1024,
    )
    torch.manual_seed(TEXT_SEED + 2)
    model = LlamaModel(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=dim,
            intermediate_size=2 * dim,
            num_hidden_layers=4,  # HunyuanVideo reads what the last two layers have not seen
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            initializer_range=dim**-0.5,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).eval()
    return tokenizer, model


def make_clip(*, dim: int = TEXT_DIM) -> tuple[Any, Any]:
    """A tiny tokenizer of CLIP's and ``CLIPTextModel``; the tokenizer joins the letters of ``WORDS``."""
    from transformers import CLIPTextConfig, CLIPTextModel

    vocabulary, merges = _merged_words("", "</w>")
    names = ["<|startoftext|>", "<|endoftext|>", *vocabulary]
    tokenizer = tokenizers.clip({name: index for index, name in enumerate(names)}, merges, length=CLIP_TOKENS)
    torch.manual_seed(TEXT_SEED + 3)
    model = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=dim,
            intermediate_size=2 * dim,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=CLIP_TOKENS,
            projection_dim=dim,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).eval()
    return tokenizer, model


def make_gemma3(*, dim: int = TEXT_DIM, max_length: int = 1024) -> tuple[Any, Any]:
    """A tiny tokenizer of Gemma's and ``Gemma3ForConditionalGeneration`` of two layers, as LTX-2 uses them."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    vocabulary, merges = _merged_words("\u2581", "")
    names = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *vocabulary]
    tokenizer = tokenizers.gemma({name: index for index, name in enumerate(names)}, merges, length=max_length)
    torch.manual_seed(TEXT_SEED + 4)
    text = {
        "vocab_size": len(tokenizer) + 3,
        "hidden_size": dim,
        "intermediate_size": 2 * dim,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": dim // 4,
        "query_pre_attn_scalar": dim // 4,
        "max_position_embeddings": max_length,
        "initializer_range": dim**-0.5,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
    }
    config = Gemma3Config(
        text_config=text,
        vision_config=vision,
        mm_tokens_per_image=4,
        boi_token_index=len(tokenizer),
        eoi_token_index=len(tokenizer) + 1,
        image_token_index=len(tokenizer) + 2,
    )
    return tokenizer, Gemma3ForConditionalGeneration(config).eval()


def _merged_words(start: str, end: str) -> tuple[list[str], list[tuple[str, str]]]:
    """Vocabulary and merges of a byte pair encoding that joins the letters of each of ``WORDS`` from left to right."""
    letters = list(dict.fromkeys([*([start] if start else []), *CHARACTERS]))
    names = dict.fromkeys(form for letter in letters for form in (letter, letter + end))
    merges: dict[tuple[str, str], None] = {}
    for word in WORDS:
        symbols = [*([start] if start else []), *word[:-1], word[-1] + end]
        whole = symbols[0]
        for symbol in symbols[1:]:
            merges[whole, symbol] = None
            whole += symbol
            names[whole] = None
    return list(names), list(merges)


def make_clip_vision(*, dim: int = TEXT_DIM, image_size: int = 32, patch_size: int = 8) -> tuple[Any, Any]:
    """A tiny image processor (it needs no torchvision) and ``CLIPVisionModel``, as in Wan 2.1 I2V."""
    import transformers
    from transformers import CLIPVisionConfig, CLIPVisionModel

    # The name of transformers 5 for what 4 has as the plain one.
    CLIPImageProcessorPil = getattr(transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor)  # noqa: N806

    processor = CLIPImageProcessorPil(
        size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size}
    )
    torch.manual_seed(TEXT_SEED + 5)
    model = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=dim,
            intermediate_size=2 * dim,
            projection_dim=dim,
            num_hidden_layers=3,  # Wan reads what the last layer has not seen
            num_attention_heads=4,
            image_size=image_size,
            patch_size=patch_size,
        )
    ).eval()
    return processor, model
