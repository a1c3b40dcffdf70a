"""One rank of a run that a config of a language model describes: load the model, answer all prompts.

Ranks of this machine carry out :func:`commands`, see :mod:`tokenring_xdit.workers.loop`; torchrun's with the command.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch.distributed as dist

from tokenring_xdit.attention import exchange
from tokenring_xdit.devices import default_dtype
from tokenring_xdit.outputs import write_whole
from tokenring_xdit.pipelines.run_agreement import agree_on_config
from tokenring_xdit.pipelines.text_model import TextModel
from tokenring_xdit.pipelines.text_orders import LoadText, Question, Said, asked_about
from tokenring_xdit.pipelines.text_rank import join
from tokenring_xdit.pipelines.text_run import TextRunConfig
from tokenring_xdit.workers.loop import Commands, Mailbox

__all__ = ["commands", "run_text_on_rank"]


def commands(mailbox: Mailbox) -> Commands:
    """Answer what a config says, as one rank of the world that the environment describes."""
    return {TextRunConfig: run_text_on_rank}


def run_text_on_rank(config: TextRunConfig) -> list[dict[str, Any]] | None:
    """Answer all prompts of a config together with the other ranks; every rank calls it.

    Each prompt is asked about the context by itself; what the prompts begin with alike is computed once.

    Args:
        config: The same on all ranks, which is checked.

    Returns:
        What was written, on rank 0, for each prompt.

    Raises:
        AgreementError: The ranks were given different configs.
    """
    device = join(LoadText.timeout)
    agree_on_config(config.agreed_on())
    model = TextModel(LoadText(config.model, config.dtype or default_dtype(), limit=config.tokens_per_rank), device)
    context, entries = config.read_context(), []
    for number, prompt in enumerate(config.prompts()):
        seed = config.seed + number
        said = model.answer(Question(0, (asked_about(context, prompt),), config.answer_options, seed))
        entries.append(_entry(prompt, seed, said, exchange(None, said.keys, "the keys of a run")))
    first = dist.get_rank() == 0
    written = _write(config.outputs(), entries) if first else None
    dist.destroy_process_group()  # not after an error: the others may not answer
    return written


def _entry(prompt: str, seed: int, said: Said, keys: list[int]) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "answer": said.text,
        "seed": seed,
        "tokens": list(said.tokens),
        "prompt_tokens": said.prompt_tokens,
        "reused_tokens": said.reused,
        "ended": said.ended,
        "keys": keys,
        "seconds": said.seconds,
        "context_length": said.context_length,
    }


def _write(outputs: list[Path], entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write answers, as texts or as JSON; returns what they are with the file that each is in."""
    for path in outputs:
        path.parent.mkdir(parents=True, exist_ok=True)
    if outputs[0].suffix.lower() == ".json":
        write_whole(outputs[0], json.dumps(entries, indent=2, ensure_ascii=False) + "\n")
        outputs = outputs * len(entries)
    else:
        for path, entry in zip(outputs, entries, strict=True):
            write_whole(path, entry["answer"] + "\n")
    return [{"output": str(path), **entry} for path, entry in zip(outputs, entries, strict=True)]
