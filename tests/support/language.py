"""A folder with a small random language model and a tokenizer of bytes, as commands take one."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.hosts.transformers.models import language_model

__all__ = ["small_model_folder"]

_TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}<assistant>"


def small_model_folder(folder: Path | str, kind: str = "llama", *, chat: bool = True) -> None:
    """Write the model; its vocabulary is the 256 bytes and three special tokens."""
    language_model(kind, vocab_size=300, max_position_embeddings=4096).save_pretrained(folder)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: at for at, token in enumerate(["<pad>", "<s>", "</s>", *letters])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    if chat:
        tokenizer.chat_template = _TEMPLATE
    tokenizer.save_pretrained(folder)
