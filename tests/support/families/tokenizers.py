"""Tokenizers of small vocabularies, from the parts that `tokenizers` has: the same under transformers 4 and 5.

Under transformers 4 a class that takes such a backend ends in ``Fast``; under 5 that is another name of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertTokenizerFast,
    CLIPTokenizerFast,
    GemmaTokenizerFast,
    Qwen2TokenizerFast,
    T5TokenizerFast,
)

__all__ = ["CLIP_WORDS", "QWEN_WORDS", "bert", "clip", "gemma", "qwen2", "t5"]

Merges = Sequence[tuple[str, str]]

CLIP_WORDS = pre_tokenizers.Sequence(
    [
        pre_tokenizers.Split(
            Regex(
                r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
            ),
            behavior="removed",
            invert=True,
        ),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
)
"""Cuts a text into words as CLIP's tokenizer does."""

QWEN_WORDS = pre_tokenizers.Sequence(
    [
        pre_tokenizers.Split(
            Regex(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
                r"|\s+(?!\S)|\s+"
            ),
            behavior="isolated",
        ),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
)
"""Cuts a text into words as Qwen2's tokenizer does."""


def clip(vocab: dict[str, int], merges: Merges, *, length: int) -> Any:
    """CLIP's tokenizer; the vocabulary holds its two special tokens."""
    start, end = "<|startoftext|>", "<|endoftext|>"
    backend = Tokenizer(
        models.BPE(
            vocab=vocab, merges=list(merges), continuing_subword_prefix="", end_of_word_suffix="</w>", unk_token=end
        )
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = CLIP_WORDS
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.RobertaProcessing((end, vocab[end]), (start, vocab[start]), False, False)
    return CLIPTokenizerFast(
        tokenizer_object=backend, unk_token=end, bos_token=start, eos_token=end, pad_token=end, model_max_length=length
    )


def t5(pieces: list[tuple[str, float]], *, length: int) -> Any:
    """T5's tokenizer, without its extra tokens; the first three pieces are ``<pad>``, ``</s>`` and ``<unk>``."""
    backend = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    metaspace = {"replacement": "\u2581", "prepend_scheme": "always", "split": True}
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(**metaspace)]
    )
    backend.decoder = decoders.Metaspace(**metaspace)
    backend.post_processor = processors.TemplateProcessing(
        single=["$A", "</s>"], pair=["$A", "</s>", "$B", "</s>"], special_tokens=[("</s>", 1)]
    )
    return T5TokenizerFast(tokenizer_object=backend, extra_ids=0, model_max_length=length)


def bert(vocab: dict[str, int], *, length: int) -> Any:
    """BERT's tokenizer; the vocabulary holds its five special tokens."""
    backend = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    backend.post_processor = processors.TemplateProcessing(
        single=["[CLS]", "$A", "[SEP]"],
        pair=["[CLS]", "$A", "[SEP]", "$B:1", "[SEP]:1"],
        special_tokens=[(name, vocab[name]) for name in ("[CLS]", "[SEP]")],
    )
    return BertTokenizerFast(tokenizer_object=backend, model_max_length=length)


def qwen2(vocab: dict[str, int], merges: Merges, *, special: Sequence[str], template: str) -> Any:
    """Qwen2's tokenizer; the vocabulary holds ``<|endoftext|>``.

    Args:
        vocab: The vocabulary.
        merges: The merges.
        special: More special tokens.
        template: Its chat template.
    """
    backend = Tokenizer(
        models.BPE(vocab=vocab, merges=list(merges), continuing_subword_prefix="", end_of_word_suffix="")
    )
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = QWEN_WORDS
    backend.decoder = decoders.ByteLevel()
    return Qwen2TokenizerFast(
        tokenizer_object=backend,
        unk_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(special),
        chat_template=template,
    )


def gemma(vocab: dict[str, int], merges: Merges, *, length: int | None = None) -> Any:
    """Gemma's tokenizer, which begins with ``<bos>``; the vocabulary holds its five special tokens."""
    backend = Tokenizer(
        models.BPE(vocab=vocab, merges=list(merges), fuse_unk=True, unk_token="<unk>", byte_fallback=True)
    )
    backend.normalizer = normalizers.Replace(" ", "\u2581")
    backend.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.post_processor = processors.TemplateProcessing(
        single=["<bos>", "$A"], pair=["<bos>", "$A", "<bos>:1", "$B:1"], special_tokens=[("<bos>", vocab["<bos>"])]
    )
    return GemmaTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        mask_token="<mask>",
        add_bos_token=True,
        padding_side="left",
        **({} if length is None else {"model_max_length": length}),
    )
