"""The seam: xfuser's ``ring_attn``, which runs TokenRing where TokenRing was chosen.

Every model that xfuser shards calls ``USP()``, which calls the module global ``ring_attn`` when the
ring degree exceeds one, and the function that ``_get_attention_function`` returns when it does not
(``xfuser/model_executor/layers/usp.py``, 0.7.0).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tokenring_xdit.attention import DeviceKeyMask, KeyMask, token_ring_attention, why_not_on_device
from tokenring_xdit.errors import UnsupportedError
from tokenring_xdit.hosts.installation import INSTALLATION
from tokenring_xdit.hosts.layout import KeyLayout, active_layout, key_layout
from tokenring_xdit.hosts.running import RUNNING
from tokenring_xdit.hosts.xfuser.backends import COUNTED
from tokenring_xdit.hosts.xfuser.choice import current_choice
from tokenring_xdit.hosts.xfuser.repairs.common import replace_method
from tokenring_xdit.parallel import ParallelDims
from tokenring_xdit.schedule import AUTO, Published, known_as

__all__ = ["install"]

log = logging.getLogger("tokenring_xdit")

_KEY_MASKS = ("attn_mask", "valid_kv_len", "indices_k")
"""Entries of ``attention_kwargs`` that hide keys, in each call."""

_LAYOUT_SAYS = ("valid_kv_len", "indices_k", "cu_seqlens_k", "max_seqlen_k")
"""Those that say which keys of the whole sequence are real, as a layout does of each rank's."""


def install(usp: Any) -> None:
    """Put our functions in the place of xfuser's, which keep serving Ring and Ulysses."""
    run_what_was_chosen(usp)
    leave_grouped_heads(usp)
    leave_hidden_keys_out(usp)
    _define_opaque(usp)


def run_what_was_chosen(usp: Any) -> None:
    """Run TokenRing where it was chosen, and xfuser's Ring elsewhere."""
    from xfuser.core.distributed import get_runtime_state

    original = usp.ring_attn

    def ring_attn(
        attention_function: Callable[..., tuple[Tensor, Tensor]],
        query: Tensor,
        key: Tensor,
        value: Tensor,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        joint_attn_kwargs: dict[str, Any] | None = None,
        attention_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        choice, layout = current_choice(), active_layout()
        group = usp.PROCESS_GROUP.RING_PG
        if choice is None and layout is not None and layout.hides_keys:
            # Only where the repairs were asked for all strategies: what Ring gathers cannot differ in length.
            choice = ParallelDims(tokenring=dist.get_world_size(group), schedule=known_as(Published.RING))
        if choice is None:
            return original(
                attention_function,
                query,
                key,
                value,
                dropout_p=dropout_p,
                is_causal=is_causal,
                joint_attn_kwargs=joint_attn_kwargs,
                attention_kwargs=attention_kwargs,
            )
        if dropout_p:
            raise UnsupportedError(f"TokenRing has no dropout, asked for dropout_p={dropout_p}: use it for inference")
        attention_kwargs = _beside_masks(attention_kwargs, layout)
        if torch.compiler.is_compiling():
            if attention_kwargs:
                raise UnsupportedError(
                    f"attention_kwargs {sorted(attention_kwargs)} (sparse attention) do not reach TokenRing through "
                    "torch.compile: compile without them, or run without torch.compile"
                )
            joint = joint_attn_kwargs or {}
            operators = torch.ops.tokenring_xdit
            operator = operators.ring_attn if _hidden(choice, layout) is None else operators.ring_attn_outside_graphs
            return operator(
                query,
                key,
                value,
                joint.get("joint_key"),
                joint.get("joint_value"),
                (RUNNING.kernel or get_runtime_state().attention_backend).name,
                is_causal,
            )
        return _token_ring(
            choice, group, layout, attention_function, query, key, value, is_causal, joint_attn_kwargs, attention_kwargs
        )

    ring_attn.__wrapped__ = original  # type: ignore[attr-defined]
    INSTALLATION.replace(usp, "ring_attn", ring_attn, author=run_what_was_chosen)


def leave_grouped_heads(usp: Any) -> None:
    """Leave grouped key and value heads as they are until a kernel attends them: see ``kernel`` below."""

    def make(original: Any) -> Any:
        def repeat_kv_heads(key: Tensor, value: Tensor, repeats: int) -> tuple[Tensor, Tensor]:
            if current_choice() is not None:
                return key, value
            repeated: tuple[Tensor, Tensor] = original(key, value, repeats)
            return repeated

        return repeat_kv_heads

    replace_method(usp, "_repeat_kv_heads", make)


def _beside_masks(attention_kwargs: dict[str, Any] | None, layout: KeyLayout | None) -> dict[str, Any] | None:
    """What is said beside which keys are hidden; refused where no layout says that."""
    said = {name: value for name, value in (attention_kwargs or {}).items() if value is not None}
    if layout is not None and "valid_kv_len" in said and said["valid_kv_len"] == layout.count():
        said = {name: value for name, value in said.items() if name not in _LAYOUT_SAYS}
    hidden = [name for name in _KEY_MASKS if name in said]
    if hidden:
        raise UnsupportedError(
            f"this model hides keys through attention_kwargs {hidden}, which TokenRing does not carry yet: "
            "use ulysses_degree for it"
        )
    return said or None


def leave_hidden_keys_out(usp: Any) -> None:
    """Leave hidden keys out under Ulysses too, where the repairs were asked for all strategies."""

    def make(original: Any) -> Any:
        def get_attention_function(backend: Any = None) -> Any:
            function = original(backend)
            RUNNING.kernel = backend  # ring_attn is handed a function only
            layout = active_layout()
            if layout is None or not layout.hides_keys or current_choice() is not None:
                return function
            if dist.get_world_size(usp.PROCESS_GROUP.RING_PG) > 1:
                return function  # ring_attn will see to it
            if layout.on_device:
                layout.read("which keys are real is read from a mask in each call, as Ulysses alone leaves them out")
                if not layout.hides_keys:
                    return function
            if torch.compiler.is_compiling():
                raise UnsupportedError(
                    "masked keys under Ulysses alone cannot be combined with torch.compile: use "
                    "tokenring_degree, or run without torch.compile"
                )
            return _leaving_out(function, layout)

        return get_attention_function

    def make_local(original: Any) -> Any:
        def attention(*args: Any, **kwargs: Any) -> Any:
            if active_layout() is None or current_choice() is not None:
                return original(*args, **kwargs)
            with key_layout(None):  # cross-attention to whole text: the layout is not about its keys
                return original(*args, **kwargs)

        return attention

    replace_method(usp, "_get_attention_function", make)
    replace_method(usp, "attention", make_local)


def _hidden(choice: ParallelDims, layout: KeyLayout | None) -> str | None:
    """On what that is no argument of it the operator depends, beyond what stays as it is; ``None`` where on nothing."""
    if layout is not None and layout.hides_keys:
        return "which keys it leaves out is no argument of it"
    if choice.schedule.partition(":")[0] == AUTO:
        return "schedule auto may still be choosing"
    return None


def _define_opaque(usp: Any) -> None:
    """Define the call as one operator, so that ``torch.compile`` neither looks inside nor breaks the graph.

    It runs ``ring_attn`` as usual, with the layout and the groups of that moment. A CUDA graph replays those of the
    call that it captured. Where these can be others, as they hide the keys of another prompt, say, the operator has
    another name, under which ``mode="reduce-overhead"`` leaves it out of its graphs; they hold what lies between.
    """
    from xfuser.core.distributed.attention_backend import AttentionBackendType

    def ring_attn(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        joint_key: Tensor | None,
        joint_value: Tensor | None,
        backend: str,
        is_causal: bool,
    ) -> Tensor:
        function = usp._get_attention_function(AttentionBackendType[backend])
        joint = None if joint_key is None else {"joint_key": joint_key, "joint_value": joint_value}
        out: Tensor = usp.ring_attn(function, query, key, value, is_causal=is_causal, joint_attn_kwargs=joint)
        return out.contiguous()

    def fake(query: Tensor, *_: Any) -> Tensor:
        return query.new_empty(query.shape)

    def fake_outside(query: Tensor, *_: Any) -> Tensor:
        _tell_what_is_left_out()
        return query.new_empty(query.shape)

    signature = (
        "(Tensor query, Tensor key, Tensor value, Tensor? joint_key, Tensor? joint_value, "
        "str backend, bool is_causal) -> Tensor"
    )
    outside = (torch.Tag.cudagraph_unsafe,)
    for name, tags, in_its_place in (("", (), fake), ("_outside_graphs", outside, fake_outside)):
        operator = torch.library.custom_op(
            f"tokenring_xdit::ring_attn{name}", ring_attn, mutates_args=(), schema=signature, tags=tags
        )
        operator.register_fake(in_its_place)


_told: set[str] = set()


def _tell_what_is_left_out() -> None:
    """Say once why CUDA graphs of ``torch.compile`` do not hold attention; which mode it has, nobody says here."""
    why = _hidden(current_choice() or ParallelDims(), active_layout())
    if why is not None and why not in _told and dist.get_rank() == 0:
        _told.add(why)
        log.warning("torch.compile leaves attention out of CUDA graphs (those of reduce-overhead, if any), as %s", why)


def _leaving_out(function: Callable[..., tuple[Tensor, Tensor]], layout: KeyLayout) -> Callable[..., Any]:
    def chosen(mask: KeyMask | None, item: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        if mask is None:
            return key[item : item + 1], value[item : item + 1]
        return mask.item(item, key, value)

    def attend(query: Tensor, key: Tensor, value: Tensor, *, joint_attn_kwargs: Any = None, **kwargs: Any) -> Any:
        own = layout.own(0, _ulysses_degree())
        results = []
        for item in range(query.shape[0]):
            k, v = chosen(own, item, key, value)
            if joint_attn_kwargs is not None:
                joint = chosen(layout.home, item, joint_attn_kwargs["joint_key"], joint_attn_kwargs["joint_value"])
                k, v = torch.cat([k, joint[0]], dim=2), torch.cat([v, joint[1]], dim=2)
            results.append(function(query[item : item + 1], k, v, **kwargs))
        return torch.cat([out for out, _ in results]), None  # nobody reads the log-sum-exp without a ring

    return attend


def _token_ring(
    choice: ParallelDims,
    group: dist.ProcessGroup,
    layout: KeyLayout | None,
    attention_function: Callable[..., tuple[Tensor, Tensor]],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    is_causal: bool,
    joint_attn_kwargs: dict[str, Any] | None,
    attention_kwargs: dict[str, Any] | None,
) -> Tensor:
    last: list[Tensor] = []  # joint keys and values are attended by every query of this rank, and are expanded once

    def expanded(k: Tensor, v: Tensor, heads: int) -> tuple[Tensor, Tensor]:
        # xfuser's kernels take as many heads of keys as of queries
        if k.shape[1] == heads:
            return k, v
        if not last or last[0] is not k or last[1] is not v:
            last[:] = [k, v, *(x.repeat_interleave(heads // k.shape[1], dim=1) for x in (k, v))]
        return last[2], last[3]

    def kernel(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, causal: bool) -> tuple[Tensor, Tensor]:
        k, v = expanded(k, v, q.shape[1])
        # Joint tensors are attended apart instead of through the decorator, which counts calls.
        out, lse = attention_function(
            q, k, v, dropout_p=0.0, is_causal=causal, joint_attn_kwargs=None, attention_kwargs=attention_kwargs
        )
        if lse is None:
            raise UnsupportedError(
                "the attention backend chosen in xfuser returns no log-sum-exp, which TokenRing needs: "
                "use --attention_backend SDPA_FLASH, SDPA_EFFICIENT, CUDNN, FLASH or FLASH_3"
            )
        # Some backends pad the rows of the log-sum-exp, cuDNN adds a dimension.
        return out, lse.reshape(*lse.shape[:2], -1)[:, :, : q.shape[2]]

    joint_kv = None
    if joint_attn_kwargs is not None:
        joint_kv = (joint_attn_kwargs["joint_key"], joint_attn_kwargs["joint_value"])
    asked = ""
    if layout is not None and layout.on_device:
        asked = _asked_backend()
        why = _why_read(choice.sequence_schedule, dist.get_world_size(group), query, key, asked, attention_kwargs)
        if why is not None:
            layout.read(f"which keys are real is read from a mask in each call, as {why}")
    own = None if layout is None else layout.own(dist.get_rank(group), _ulysses_degree())
    out, _ = token_ring_attention(
        query,
        key,
        value,
        group=group,
        schedule=choice.sequence_schedule,
        kernel=COUNTED.get(asked) if isinstance(own, DeviceKeyMask) else kernel,
        causal=is_causal,
        key_mask=own,
        joint_kv=joint_kv,
        joint_mask=None if layout is None or joint_kv is None else layout.home,
        cache_key=None if layout is None else layout.key,  # of the whole sequence, which every rank knows
    )
    return out


def _asked_backend() -> str:
    """The attention backend that xfuser was asked for, by its name; empty where the choice was left to it."""
    from xfuser.core.distributed import get_runtime_state

    return (get_runtime_state().runtime_config.attention_backend or "").upper()


def _why_read(schedule: str, ranks: int, query: Tensor, key: Tensor, asked: str, attention_kwargs: Any) -> str | None:
    """Why the host has to look at a mask which a recorded call would compute anew; ``None`` where it has not."""
    if asked and asked not in COUNTED:
        return (
            f"attention backend {asked}, which was asked for, does not read key counts on the device: leave it out, or "
            f"use {' or '.join(COUNTED)}"
        )
    if attention_kwargs:
        return f"attention_kwargs {sorted(attention_kwargs)} go to xfuser's own kernel"
    return why_not_on_device(schedule, ranks, query, key, kernel=COUNTED.get(asked))


def _ulysses_degree() -> int:
    from xfuser.core.distributed import get_ulysses_parallel_world_size

    return int(get_ulysses_parallel_world_size())
