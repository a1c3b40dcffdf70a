"""What the worker ranks run for the tests of what language models send, hold and need."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist

import tokenring_xdit
from tests.hosts.transformers.jobs import error_of, parallel_model
from tests.hosts.transformers.models import language_model, prompts
from tests.support.ranks import by_the_first
from tokenring_xdit.attention import record_trace
from tokenring_xdit.attention.auto import TOPOLOGY_VARIABLE
from tokenring_xdit.bench.instruments import barrier, clear_buffers, peak_of
from tokenring_xdit.compat.transformers import cache_name
from tokenring_xdit.hosts.transformers.shapes import shape_of
from tokenring_xdit.language_shapes import LanguageShape
from tokenring_xdit.planning.placement import Placement
from tokenring_xdit.schedule import Activity

CPU = torch.device("cpu")


def turn_lengths(past: int, new: int, ranks: int) -> list[int]:
    """New tokens of each rank in a turn behind a prompt: what is over goes to the ranks that hold least."""
    placement = Placement(ranks)
    placement = placement.plus(placement.split(past))
    return [span.stop - span.start for span in placement.split(new)]


@torch.no_grad()
def bytes_sent(kind: str, prefill: str, prompt: int, turn: int) -> tuple[int, int, int]:
    """What this rank sends for a prompt, for a turn behind it, and for one more token."""
    parallel = parallel_model(kind, prefill=prefill).tokenring
    ids, _ = prompts(1, prompt + turn + 1)
    cache, found = parallel.cache(), []
    for start, stop in ((0, prompt), (prompt, prompt + turn), (prompt + turn, prompt + turn + 1)):
        before = parallel.report()["bytes_sent"]
        parallel.hidden(ids[:, start:stop], cache=cache)
        found.append(parallel.report()["bytes_sent"] - before)
    return found[0], found[1], found[2]


@torch.no_grad()
def traced(kind: str, prefill: str, prompt: int) -> tuple[list[tuple[int, str, int]], int]:
    """What all ranks received while they read a prompt, by a trace: rank, block and bytes; and what this one sent."""
    parallel = parallel_model(kind, prefill=prefill).tokenring
    ids, _ = prompts(1, prompt)
    before = parallel.report()["bytes_sent"]
    with record_trace() as trace:
        parallel.hidden(ids)
    sent = parallel.report()["bytes_sent"] - before
    spans = trace.timeline(prefill).spans
    received = [(span.rank, span.what, span.size or 0) for span in spans if span.activity is Activity.RECEIVE]
    return sorted(received), sent


@torch.no_grad()
def keys_held(kind: str, tokens: int, turn: int, answer: int) -> list[tuple[int, int]]:
    """Tokens whose keys this rank holds after a prompt, a turn and an answer, and the bytes of them, a layer each."""
    parallel = parallel_model(kind)
    cache, name = parallel.tokenring.cache(), cache_name(type(parallel).forward)
    ids, _ = prompts(1, tokens + turn)
    parallel(ids[:, :tokens], logits_to_keep=1, **{name: cache})
    parallel.generate(ids, max_new_tokens=answer, **{name: cache})
    return [(layer.held, layer.keys.nbytes + layer.values.nbytes) for layer in cache.layers]


@torch.no_grad()
def peak(
    kind: str, settings: dict[str, Any], tokens: int, chunk: int | None, unmodified: bool = False
) -> tuple[LanguageShape, int]:
    """The shape of a model, and most bytes that this rank allocates beside weights while it generates two tokens."""
    model = language_model(kind, **settings)
    if not unmodified:
        tokenring_xdit.parallelize(model, tokenring_degree=dist.get_world_size())
    elif model._supports_sdpa:
        model.set_attn_implementation("sdpa")  # as models are loaded
    ids, _ = prompts(1, tokens)
    options: dict[str, Any] = {} if chunk is None else {"prefill_chunk_size": chunk}
    clear_buffers()
    barrier(CPU)

    def call() -> Any:
        return model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=2, **options)

    found, _ = peak_of(call, CPU)
    clear_buffers()
    return shape_of(model), found


@torch.no_grad()
def planned(topology: str, prompt: int, turn: int) -> tuple[list[str | None], list[float], int]:
    """What is chosen on a network for a prompt and a turn behind it, errors of both, and bytes sent for the turn."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(TOPOLOGY_VARIABLE, topology)
        whole, parallel = language_model("llama"), parallel_model("llama")
        ids, _ = prompts(1, prompt + turn)
        wanted = by_the_first(lambda: whole(ids).logits)
        cache, errors = parallel.tokenring.cache(), []
        for start, stop in ((0, prompt), (prompt, prompt + turn)):
            before = parallel.tokenring.report()["bytes_sent"]
            found, rows = parallel.tokenring.logits(ids[:, start:stop], cache=cache)
            errors.append(error_of(found, wanted[:, start:stop][:, rows.start : rows.stop]))
        sent = parallel.tokenring.report()["bytes_sent"] - before
        return [*parallel.tokenring._session.planned.known.values()], errors, sent
