"""What the worker ranks run in the tests of traces of xfuser's own strategies."""

from __future__ import annotations

import importlib
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist

from tokenring_xdit.attention import record_trace
from tokenring_xdit.compat.torch import RING_MODULE
from tokenring_xdit.hosts.xfuser import XfuserState, count_traffic, trace_upstream
from tokenring_xdit.hosts.xfuser.rotation import all_to_all_rotation
from tokenring_xdit.parallel import ParallelDims
from tokenring_xdit.schedule import Timeline

TOKENS, HEADS, HEAD_DIM = 32, 4, 8
"""Of a rank."""


@dataclass
class Traced:
    """A traced call of ``USP`` on one rank."""

    timeline: Timeline
    bytes_sent: int
    same_result: bool
    untouched: bool


@torch.inference_mode()
def traced(degrees: ParallelDims, rotation: bool = False) -> Traced:
    """A call of ``USP`` without and one with a trace."""
    from tests.hosts.xfuser.generation import forget_xfuser

    try:
        XfuserState(degrees).activate(None)
        torch_ring = importlib.import_module(RING_MODULE)
        from xfuser.model_executor.layers import usp

        def names() -> list[object]:
            return [
                usp.ring_attn,
                usp._get_attention_function,
                usp._sdpa_all_to_all_single,
                torch_ring._SDPAMerger.step,
                torch_ring._AllGatherRotater.next_buffer,
                torch_ring._AllToAllRotater.exchange_buffers,
            ]

        generator = torch.Generator().manual_seed(dist.get_rank())
        own = torch.randn(3, 1, HEADS, TOKENS, HEAD_DIM, generator=generator)
        before = names()
        with all_to_all_rotation() if rotation else nullcontext():
            with count_traffic() as traffic:
                expected = usp.USP(*own)
            with record_trace() as trace, trace_upstream(trace):
                found = usp.USP(*own)
        return Traced(trace.timeline("upstream"), traffic.bytes, torch.equal(expected, found), names() == before)
    finally:
        forget_xfuser()
