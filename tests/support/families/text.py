"""Tiny text encoders with their tokenizers, built without downloads, the same on every rank; and random weights."""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from itertools import pairwise
from typing import Any, TypeVar

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
)

from tests.support.families import tokenizers

Module = TypeVar("Module", bound=nn.Module)

PROMPTS = ("a red cube beside two blue balls on a wooden table", "an old lighthouse at night")
NEGATIVE_PROMPT = "blurry picture"

# One token each in every tokenizer; other words fall back to their letters.
VOCABULARY = """
    a an the two three small large old new red green blue yellow black white dark bright wooden blurry
    cube cubes ball balls table chair lighthouse house tree cat dog bird boat sea sky moon night day picture photo
    on in at under above beside of and with without
"""
WORDS = VOCABULARY.split()

# What the templates of the pipelines put around a prompt.
TEMPLATE_TEXTS = (
    "Describe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships of the "
    "objects and background:",
    "You are an AI that reasons about image descriptions. You give structured responses focusing on object "
    "relationships, object\nattribution and actions without speculation.",
    "system",
    "user",
    "assistant",
    "\n",
    "\n\n",
)

QWEN_SPECIAL_TOKENS = [
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
_QWEN_PLACES = {"<|endoftext|>": 151643} | dict(
    zip(QWEN_SPECIAL_TOKENS, (151644, 151645, 151652, 151653, 151655, 151656), strict=True)
)
QWEN_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% endif %}"
)

MISTRAL_SPECIAL_TOKENS = [
    "[INST]",
    "[/INST]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[IMG]",
    "[IMG_BREAK]",
    "[IMG_END]",
]
MISTRAL_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% set text = message.content | map(attribute='text') | join('') %}"
    "{{ '[SYSTEM_PROMPT]' + text + '[/SYSTEM_PROMPT]' if message.role == 'system' else '[INST]' + text + '[/INST]' }}"
    "{% endfor %}"
)


def randomise_weights(module: Module, *, seed: int, gain: float = 1.0) -> Module:
    """Draws every parameter anew so that each layer keeps the scale of its input and no gate or padding is zero.

    Args:
        module: The model; modules of the same architecture get the same weights.
        seed: Seed of the draw, which leaves the global generator alone.
        gain: Scale of what a linear layer or a convolution makes of an input of scale one.

    Returns:
        The module, in evaluation mode.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in module.modules():
            for name, parameter in part.named_parameters(recurse=False):
                noise = torch.randn(parameter.shape, generator=generator)
                if isinstance(part, nn.Embedding):
                    parameter.copy_(noise)
                elif parameter.ndim > 1:
                    parameter.copy_(gain * noise / parameter[0].numel() ** 0.5)
                else:
                    parameter.copy_(0.1 * noise + (name != "bias"))
    return module.eval()


def picture_call(
    *,
    guidance_scale: float,
    negative: bool,
    text_tokens: int | None,
    prompts: list[str] | None = None,
    height: int = 32,
    width: int = 48,
    steps: int = 2,
    images_per_prompt: int = 1,
) -> dict[str, Any]:
    """Arguments of a call of a pipeline that draws pictures of prompts, and returns latents.

    Args:
        guidance_scale: Scale of the guidance.
        negative: Have negative prompts, of another length.
        text_tokens: Tokens of a prompt; ``None`` where the pipeline takes no number.
        prompts: The prompts.
        height: Height in pixels.
        width: Width in pixels.
        steps: Denoising steps.
        images_per_prompt: Pictures made of each prompt.

    Returns:
        The arguments, good for one call.
    """
    prompts = list(prompts or PROMPTS[:1])
    return {
        "prompt": prompts,
        **({"negative_prompt": [NEGATIVE_PROMPT] * len(prompts)} if negative else {}),
        "guidance_scale": guidance_scale,
        **({} if text_tokens is None else {"max_sequence_length": text_tokens}),
        **call_arguments(height=height, width=width, steps=steps, images_per_prompt=images_per_prompt),
    }


def drawn(tokens: int, width: int, *, seed: int) -> torch.Tensor:
    """Embeddings in the place of a text, ``[1, tokens, width]``."""
    return torch.randn(1, tokens, width, generator=torch.Generator().manual_seed(seed))


def call_arguments(*, height: int, width: int, steps: int, images_per_prompt: int) -> dict[str, Any]:
    """The arguments that all pipelines of pictures share; the call returns latents."""
    return {
        "height": height,
        "width": width,
        "num_inference_steps": steps,
        "num_images_per_prompt": images_per_prompt,
        "output_type": "latent",
        "generator": torch.Generator().manual_seed(5),
    }


def clip(
    *, hidden: int = 32, projection: int | None = None, length: int = 77, seed: int = 21
) -> tuple[Any, CLIPTextModel | CLIPTextModelWithProjection]:
    """A CLIP text encoder, with a projection of the given size where one is asked for.

    Args:
        hidden: Hidden size.
        projection: Size of the projected embedding, or None for a model without projection.
        length: Most tokens of a prompt, the two special ones included; what the pipelines pad to.
        seed: Seed of the weights.

    Returns:
        Tokenizer and encoder.
    """
    vocab, merges = _byte_pairs([VOCABULARY], tokenizers.CLIP_WORDS, end="</w>")
    start, end = "<|startoftext|>", "<|endoftext|>"
    vocab |= {start: len(vocab), end: len(vocab) + 1}
    tokenizer = tokenizers.clip(vocab, merges, length=length)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=length,
        projection_dim=projection or hidden,
        bos_token_id=vocab[start],
        eos_token_id=vocab[end],
        pad_token_id=vocab[end],
    )
    encoder = (CLIPTextModel if projection is None else CLIPTextModelWithProjection)(config)
    return tokenizer, randomise_weights(encoder, seed=seed)


def t5(*, hidden: int = 32, length: int = 512, seed: int = 22) -> tuple[Any, T5EncoderModel]:
    """A T5 encoder of version 1.1 (gated GELU)."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(f"\u2581{word}", -2.0) for word in WORDS]
    pieces += [("\u2581", -8.0)]
    pieces += [(letter, -10.0) for letter in string.ascii_letters + string.digits + string.punctuation]
    tokenizer = tokenizers.t5(pieces, length=length)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=hidden,
        d_kv=hidden // 4,
        d_ff=2 * hidden,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
    )
    return tokenizer, randomise_weights(T5EncoderModel(config), seed=seed)


def bert(*, hidden: int = 32, length: int = 77, seed: int = 23) -> tuple[Any, BertModel]:
    """A BERT encoder, as the first of HunyuanDiT's two."""
    letters = string.ascii_lowercase + string.digits + string.punctuation
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters), *WORDS]
    vocab = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = tokenizers.bert(vocab, length=length)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=length,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return tokenizer, randomise_weights(BertModel(config), seed=seed)


def qwen2_5_vl(*, hidden: int = 32, seed: int = 24) -> tuple[Any, Qwen2_5_VLForConditionalGeneration]:
    """A Qwen2.5-VL model with its vision tower, as Qwen-Image's encoder.

    Args:
        hidden: Hidden size of the language model.
        seed: Seed of the weights.

    Returns:
        Tokenizer and model; what Qwen-Image's template puts before a prompt is 34 tokens, as with the real tokenizer.
    """
    tokenizer = _qwen_tokenizer()
    ids = dict(zip(QWEN_SPECIAL_TOKENS, tokenizer.convert_tokens_to_ids(QWEN_SPECIAL_TOKENS), strict=True))
    config = Qwen2_5_VLConfig(
        text_config={
            **_decoder_sizes(tokenizer, hidden),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [hidden // 8 - 2 * (hidden // 24), hidden // 24, hidden // 24],
            },
            "bos_token_id": tokenizer.pad_token_id,
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": hidden,
            "fullatt_block_indexes": [1],
        },
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
    )
    return tokenizer, randomise_weights(Qwen2_5_VLForConditionalGeneration(config), seed=seed)


def qwen2_vl_processor() -> tuple[Any, ...]:
    """The tokenizer of Qwen2-VL, whose special tokens have the numbers that they have in the real one.

    With torchvision, which its processors of pictures and videos need, its processor as well.
    """
    tokenizer = _qwen_tokenizer(_QWEN_PLACES)
    if find_spec("torchvision") is None:
        return (tokenizer,)
    from transformers import Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor

    processor = Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(), tokenizer=tokenizer, video_processor=Qwen2VLVideoProcessor()
    )
    return tokenizer, processor


def qwen3(*, hidden: int = 32, causal: bool = False, seed: int = 25) -> tuple[Any, Qwen3Model | Qwen3ForCausalLM]:
    """A Qwen3 model: without a head as Z-Image's encoder, with one (``causal``) as that of Flux.2 klein."""
    tokenizer = _qwen_tokenizer()
    config = Qwen3Config(
        **_decoder_sizes(tokenizer, hidden),
        head_dim=hidden // 4,
        eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
        pad_token_id=tokenizer.pad_token_id,
    )
    return tokenizer, randomise_weights((Qwen3ForCausalLM if causal else Qwen3Model)(config), seed=seed)


def mistral3(*, hidden: int = 32, seed: int = 26) -> tuple[PreTrainedTokenizerFast, Mistral3ForConditionalGeneration]:
    """A Mistral 3 model with its Pixtral vision tower, as the encoder of Flux.2 dev.

    The tokenizer stands where that pipeline has a ``PixtralProcessor``, which needs torchvision; for text alone the
    processor does no more than call its tokenizer, whose chat template takes messages made of chunks as well.
    """
    pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    vocab, merges = _byte_pairs(_corpus(), pre_tokenizer)
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizer
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=MISTRAL_SPECIAL_TOKENS,
        padding_side="left",
        chat_template=MISTRAL_TEMPLATE,
    )
    config = Mistral3Config(
        text_config={
            "model_type": "mistral",
            **_decoder_sizes(tokenizer, hidden),
            "head_dim": hidden // 4,
            "sliding_window": None,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "model_type": "pixtral",
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "patch_size": 14,
            "image_size": 56,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        tie_word_embeddings=False,
    )
    return tokenizer, randomise_weights(Mistral3ForConditionalGeneration(config), seed=seed)


def _decoder_sizes(tokenizer: Any, hidden: int) -> dict[str, int]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
    }


def _qwen_tokenizer(places: Mapping[str, int] | None = None) -> Any:
    """Qwen2's tokenizer.

    Args:
        places: Numbers of special tokens, which follow the others by default.
    """
    vocab, merges = _byte_pairs(_corpus(), tokenizers.QWEN_WORDS)
    vocab |= {"<|endoftext|>": len(vocab)} if places is None else places
    tokenizer = tokenizers.qwen2(vocab, merges, special=QWEN_SPECIAL_TOKENS, template=QWEN_TEMPLATE)
    tokenizer.add_tokens(["<think>", "</think>"])
    return tokenizer


def _corpus() -> list[str]:
    """Texts whose words are to be one token each: at the start of a text and after a space."""
    return [*WORDS, *(f" {word}" for word in WORDS), *TEMPLATE_TEXTS]


def _byte_pairs(
    texts: Iterable[str], pre_tokenizer: Any, end: str = ""
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A vocabulary of all bytes and the merges that make each word of the texts one token.

    The library's trainer numbers tokens that end a word in the order of a hash map, which differs between processes.

    Args:
        texts: The texts.
        pre_tokenizer: Splits them into words of byte symbols.
        end: Suffix of tokens that end a word.

    Returns:
        The vocabulary, and the merges in the order of their rank.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = dict.fromkeys([*alphabet, *(symbol + end for symbol in alphabet)])
    ranks: dict[tuple[str, str], int] = {}
    for word in dict.fromkeys(word for text in texts for word, _ in pre_tokenizer.pre_tokenize_str(text)):
        pieces = [*word[:-1], word[-1] + end]
        while len(pieces) > 1:
            pairs = list(pairwise(pieces))
            at = min(range(len(pairs)), key=lambda i: ranks.get(pairs[i], len(ranks)))
            ranks.setdefault(pairs[at], len(ranks))
            pieces[at : at + 2] = ["".join(pairs[at])]
            tokens.setdefault(pieces[at])
    return {token: number for number, token in enumerate(tokens)}, list(ranks)
