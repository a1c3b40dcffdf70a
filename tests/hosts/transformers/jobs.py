"""What the worker ranks run in the tests of language models; the reference is the unmodified model in one process."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from transformers import DynamicCache

import tokenring_xdit
from tests.hosts.transformers.models import language_model, prompts

CASES = {
    "one token": (1, 1, None),
    "shorter than the ranks": (1, 3, None),
    "prime": (1, 53, None),
    "prime batch": (2, 31, None),
    "left padding": (3, 41, [0, 7, 39]),
    "short and padded": (2, 5, [0, 3]),
}
"""Batch, length, and padding of each item."""

TURNS = (0, 29), (29, 30), (30, 51), (51, 53), (53, 67)
"""Tokens of one turn after the other."""


def parallel_model(kind: str, **options: Any) -> Any:
    """The same model, over all ranks of the job."""
    return tokenring_xdit.parallelize(language_model(kind), tokenring_degree=dist.get_world_size(), **options)


def error_of(found: torch.Tensor, wanted: torch.Tensor, mask: torch.Tensor | None = None) -> float:
    """The largest difference, relative to the largest value, where tokens are real."""
    difference = (found - wanted).abs()
    if mask is not None:
        difference = difference[mask.bool()]
    return float(difference.max() / wanted.abs().max()) if difference.numel() else 0.0


@torch.no_grad()
def logits_errors(kind: str, prefill: str = "auto") -> dict[str, float]:
    """The error of this rank's logits, of all its tokens, case by case; of whole calls and of turns as well."""
    whole, parallel = language_model(kind), parallel_model(kind, prefill=prefill)
    errors = {}
    for name, (batch, length, padding) in CASES.items():
        ids, mask = prompts(batch, length, padding)
        given = mask if padding else None
        wanted = whole(ids, attention_mask=given).logits
        found, rows = parallel.tokenring.logits(ids, given)
        part = slice(rows.start, rows.stop)
        errors[name] = error_of(found, wanted[:, part], mask[:, part])
        errors[f"{name}, gathered"] = error_of(parallel(ids, attention_mask=given).logits, wanted, mask)
    ids, mask = prompts(2, 67, [0, 9])
    theirs, cache = DynamicCache(config=whole.config), parallel.tokenring.cache()
    for start, stop in TURNS:
        turn, seen = ids[:, start:stop], mask[:, :stop]
        # Rotary tables that depend on the length differ between turns and one run, without ranks too.
        wanted = whole(turn, attention_mask=seen, past_key_values=theirs).logits
        found, rows = parallel.tokenring.logits(turn, seen, cache)
        part = slice(rows.start, rows.stop)
        errors[f"turn {start}..{stop}"] = error_of(found, wanted[:, part], seen[:, start:stop][:, part])
    return errors


GENERATIONS: dict[str, dict[str, Any]] = {
    "greedy": {"max_new_tokens": 64},
    "sampling": {"max_new_tokens": 16, "do_sample": True, "temperature": 1.5, "top_k": 20},
    "several": {"max_new_tokens": 8, "do_sample": True, "num_return_sequences": 3},
    "beams": {"max_new_tokens": 9, "num_beams": 3, "num_return_sequences": 2},
    "chunks": {"max_new_tokens": 9, "prefill_chunk_size": 7},
    "look-up": {"max_new_tokens": 24, "prompt_lookup_num_tokens": 5},
    "no cache": {"max_new_tokens": 5, "use_cache": False},
    "end": {"max_new_tokens": 40, "do_sample": True, "eos_token_id": list(range(3, 30))},
}
"""Options of ``generate``."""


@torch.no_grad()
def generations(kind: str, names: list[str], padding: list[int] | None = None) -> dict[str, tuple[bool, list[Any]]]:
    """Whether this rank generated what one process with the first rank's seed does, and the tokens, by name."""
    whole, parallel = language_model(kind), parallel_model(kind)
    found = {}
    for name in names:
        options = GENERATIONS[name]
        batch = 1 if name == "look-up" else 2
        ids, mask = prompts(batch, 43, padding and padding[:batch])
        torch.manual_seed(5)
        wanted = whole.generate(ids, attention_mask=mask, **options)
        torch.manual_seed(5 if dist.get_rank() == 0 else 100 + dist.get_rank())
        tokens = parallel.generate(ids, attention_mask=mask, **options)
        found[name] = torch.equal(tokens, wanted), tokens.tolist()
    return found
