"""On the worker ranks: pipelines whose transformers' calls are replayed, against unmodified diffusers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from tests.graphs.operators import OperatorRecorder
from tests.hosts.xfuser.generation import Case, engine, forget_xfuser, latents_of, with_wrapped_transformer
from tests.hosts.xfuser.stepping import lora_state
from tests.support.families import ALL_FAMILIES
from tests.support.ranks import by_the_first, rank_device
from tests.support.reference import relative_error
from tokenring_xdit.errors import TokenRingError
from tokenring_xdit.graphs import CudaRecorder, GraphReport, Recorder
from tokenring_xdit.graphs.runner import _Buffers
from tokenring_xdit.hosts.calls import Output, spread_over_ranks
from tokenring_xdit.hosts.xfuser import AttentionBackend, graph_reports, parallelize
from tokenring_xdit.hosts.xfuser.backends import COUNTED
from tokenring_xdit.hosts.xfuser.graphs import replay_calls
from tokenring_xdit.hosts.xfuser.host import XfuserHost
from tokenring_xdit.parallel import ParallelDims


@dataclass(frozen=True)
class Replayed:
    """How calls went on one rank.

    Attributes:
        errors: Of each generation, beside one process.
        reports: What had become of the transformers' calls after each of them.
    """

    errors: list[float] = field(default_factory=list)
    reports: list[dict[str, GraphReport]] = field(default_factory=list)


def recorder(device: torch.device) -> Recorder:
    return CudaRecorder(device) if device.type == "cuda" else OperatorRecorder(device)


@contextmanager
def spread(case: Case, backend: AttentionBackend = AttentionBackend.AUTO) -> Iterator[Any]:
    """A pipeline whose calls are replayed."""
    pipe = ALL_FAMILIES[case.family].make(**case.make).to(rank_device(), case.dtype)
    dims = ParallelDims(ulysses=case.ulysses, tokenring=case.tokenring, schedule=case.schedule)
    try:
        spread_over_ranks(pipe, lambda: XfuserHost(dims, backend, recorder), Output.EVERY_RANK)
        yield pipe
    finally:
        forget_xfuser()


def alone(case: Case, inputs: Mapping[str, Any], change: Any = None) -> Tensor:
    """What one process makes."""
    family = ALL_FAMILIES[case.family]
    pipe = family.make(**case.make).to(rank_device(), case.dtype)
    if change is not None:
        change(pipe)
    latents = latents_of(pipe(**family.inputs(**{**case.inputs, **inputs})))
    assert latents is not None
    return latents


@torch.no_grad()
def generations(
    case: Case, each: list[Mapping[str, Any]], backend: AttentionBackend = AttentionBackend.AUTO
) -> Replayed:
    """Some generations one after the other, with other prompts and sizes."""
    expected, found = by_the_first(lambda: [alone(case, inputs) for inputs in each]), Replayed()
    with spread(case, backend) as pipe:
        for inputs, right in zip(each, expected, strict=True):
            made = latents_of(pipe(**ALL_FAMILIES[case.family].inputs(**{**case.inputs, **inputs})))
            found.errors.append(relative_error(made, right))
            found.reports.append(graph_reports(pipe))
    return found


def generations_with_a_counted_backend(case: Case, each: list[Mapping[str, Any]]) -> Replayed:
    """The same with a named backend that is said to be a kernel which can be told key counts on a processor."""
    backend = AttentionBackend.SDPA_FLASH
    assert backend.upstream is not None
    with mock.patch.dict(COUNTED, {backend.upstream: "math"}):
        return generations(case, each, backend)


def generations_with_stale_masks(case: Case, each: list[Mapping[str, Any]]) -> Replayed:
    """The same with a fault: what says which tokens are real is no more copied into the memory that graphs read."""
    times: dict[int, int] = {}
    fill = _Buffers.fill

    def stale(buffers: _Buffers, tensors: Sequence[Tensor]) -> tuple[int, ...]:
        times[id(buffers)] = times.get(id(buffers), 0) + 1
        old = times[id(buffers)] > 3  # two rehearsals, and the first replay
        pairs = zip(buffers.tensors, tensors, strict=True)
        return fill(buffers, [mine if old and _is_mask(theirs) else theirs for mine, theirs in pairs])

    with mock.patch.object(_Buffers, "fill", stale):
        return generations(case, each)


def _is_mask(tensor: Tensor) -> bool:
    """Whether it is one of text, ``[B, T]``, of whatever dtype."""
    return tensor.ndim == 2 and bool(((tensor == 0) | (tensor == 1)).all())


def _with_lora(pipe: Any) -> None:
    pipe.load_lora_weights(lora_state(pipe.transformer), adapter_name="one")


def _with_half_of_it(pipe: Any) -> None:
    _with_lora(pipe)
    pipe.set_adapters("one", 0.5)


def _with_other_weights(pipe: Any) -> None:
    state = pipe.transformer.state_dict()
    pipe.transformer.load_state_dict({name: 0.9 * value for name, value in state.items()})


@torch.no_grad()
def generations_between_changes(case: Case) -> Replayed:
    """A generation as it is, with a LoRA, with half of it, without it, and with other weights."""
    found = Replayed()
    changes = [None, _with_lora, _with_half_of_it, None, _with_other_weights]
    expected = by_the_first(lambda: [alone(case, {}, change) for change in changes])
    with spread(case) as pipe:
        then = [
            lambda: None,
            lambda: _with_lora(pipe),
            lambda: pipe.set_adapters("one", 0.5),
            pipe.unload_lora_weights,
            lambda: _with_other_weights(pipe),
        ]
        for change, right in zip(then, expected, strict=True):
            change()
            made = latents_of(pipe(**ALL_FAMILIES[case.family].inputs(**case.inputs)))
            found.errors.append(relative_error(made, right))
            found.reports.append(graph_reports(pipe))
    return found


@torch.no_grad()
def with_change_in_a_callback(case: Case) -> Replayed:
    """The strength of a LoRA changes in the middle of a generation, whose calls are replayed by then."""
    inputs, found = ALL_FAMILIES[case.family].inputs(**case.inputs), Replayed()

    def weaken(pipe: Any, step: int, time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == inputs["num_inference_steps"] // 2:
            pipe.set_adapters("one", 0.2)
        return tensors

    def with_lora() -> Tensor | None:
        pipe = ALL_FAMILIES[case.family].make(**case.make).to(rank_device(), case.dtype)
        _with_lora(pipe)
        return latents_of(pipe(**inputs, callback_on_step_end=weaken))

    expected = by_the_first(with_lora)
    with spread(case) as pipe:
        _with_lora(pipe)
        again = ALL_FAMILIES[case.family].inputs(**case.inputs)
        made = latents_of(pipe(**again, callback_on_step_end=weaken))
        found.errors.append(relative_error(made, expected))
        found.reports.append(graph_reports(pipe))
    return found


@torch.no_grad()
def under_xfuser(case: Case) -> Replayed:
    """The same for a transformer of xfuser's, as ``xdit --tokenring_cuda_graphs`` has it, under any strategy."""
    family, found = ALL_FAMILIES[case.family], Replayed()
    expected = by_the_first(lambda: alone(case, {}))
    with engine(case) as config:
        pipe = with_wrapped_transformer(family, config, case, family.inputs(**case.inputs))
        graphs = replay_calls(pipe.transformer, recorder(rank_device()))
        for _ in range(2):
            found.errors.append(relative_error(latents_of(pipe(**family.inputs(**case.inputs))), expected))
            found.reports.append({"transformer": graphs.report})
    return found


def refusals() -> dict[str, str]:
    """What is said to CUDA graphs that cannot be."""
    said = {}
    asked: dict[str, dict[str, Any]] = {"no GPU": {"tokenring_degree": 2, "cuda_graphs": True}}
    for name, options in asked.items():
        try:
            parallelize(ALL_FAMILIES["flux"].make(), **options)
        except TokenRingError as error:
            said[name] = str(error)
    try:
        with spread(Case("flux", tokenring=2)) as pipe:
            pipe.transformer = torch.compile(pipe.transformer)
            pipe(**ALL_FAMILIES["flux"].inputs())
    except TokenRingError as error:
        said["compiled"] = str(error)
    try:
        with spread(Case("flux", tokenring=2)) as pipe:
            other = type(pipe).__mro__[1](**pipe.components)
            parallelize(other, tokenring_degree=2)
    except TokenRingError as error:
        said["another pipeline"] = str(error)
    return said
