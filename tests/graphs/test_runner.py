"""Calls of small models, replayed operator by operator on the memory of their capture, beside the models themselves."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.graphs.operators import HostRead, OperatorRecorder, OperatorRecording, WatchfulRecorder
from tokenring_xdit.attention import auto
from tokenring_xdit.errors import CommunicationError, UnsupportedError
from tokenring_xdit.graphs import GraphedCalls
from tokenring_xdit.graphs.reads import OutsideTensors
from tokenring_xdit.graphs.runner import _difference
from tokenring_xdit.hosts.replay import ReplayCheck, surroundings


class Model(nn.Module):
    """Some of what transformers do: views, sums in place, tables that are kept, arguments that change shapes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 8)
        self.tables: dict[int, Tensor] = {}
        self.more = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

    def forward(
        self, x: Tensor, time: Tensor, texts: list[Tensor] | None = None, power: int = 1, late: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute something of all arguments."""
        if x.shape[1] not in self.tables:
            self.tables[x.shape[1]] = torch.arange(x.shape[1]).float()[:, None].cos()
        hidden = self.first(x).view(*x.shape[:2], 4, 4).transpose(1, 2).softmax(dim=-1)
        hidden = hidden.transpose(1, 2).reshape(*x.shape[:2], 16) * time.view(-1, 1, 1)
        hidden += 0.1
        for text in texts or []:
            hidden = hidden + text.sum(dim=1, keepdim=True)
        out = self.second(hidden) + self.tables[x.shape[1]]
        for layer in self.more:
            out = layer(out)
        return out**power, {"sum": out.sum() if late is None else (out * late).sum()}


@contextmanager
def nothing_decided() -> Iterator[list[str]]:
    yield []


def alone(value: Any, what: str) -> list[Any]:
    return [value]


def graphed(model: nn.Module, recorder: Any = None, exchange: Any = alone, **options: Any) -> tuple[GraphedCalls, Any]:
    recorder = recorder or OperatorRecorder()
    graphs = GraphedCalls("Model", recorder, exchange=exchange, watch=nothing_decided, tells=True, **options)

    look = ReplayCheck()

    def call(**arguments: Any) -> Any:
        graphs.settle([graphs.propose(arguments, *look(model))])
        return graphs(model, arguments)

    return graphs, call


def inputs(seed: int, tokens: int = 6, batch: int = 2, **more: Any) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(batch, tokens, 8, generator=draw),
        "time": torch.rand(1, generator=draw).expand(batch),
        "texts": [torch.randn(batch, 3, 16, generator=draw)],
        **more,
    }


def same(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_replays_compute_what_the_model_does() -> None:
    model = Model().eval()
    graphs, call = graphed(model)
    for seed in range(8):
        tokens = (6, 9)[seed % 3 == 2]
        same(call(**inputs(seed, tokens)), Model().eval()(**inputs(seed, tokens)))
    report = graphs.report
    assert (report.rehearsed, report.captured, report.replayed) == (2, 2, 4)
    assert not report.eager
    assert report.graphs == 2


@torch.no_grad()
def test_what_a_call_returned_stays_when_the_next_one_is_replayed() -> None:
    _, call = graphed(Model().eval())
    found = [call(**inputs(seed)) for seed in range(5)]
    expected = [Model().eval()(**inputs(seed)) for seed in range(5)]
    for mine, right in zip(found, expected, strict=True):
        same(mine, right)


@torch.no_grad()
def test_arguments_that_are_one_and_two_by_turns() -> None:
    graphs, call = graphed(Model().eval())
    for seed in range(8):
        one, other = inputs(seed)["texts"][0], inputs(seed + 100)["texts"][0]
        texts = [one, one] if seed % 2 else [one, other]
        given = {**inputs(seed), "texts": texts}
        same(call(**given), Model().eval()(**given))
    assert graphs.report.graphs == 2
    assert graphs.report.replayed == 4


@torch.no_grad()
def test_scalars_and_missing_arguments_make_another_graph() -> None:
    graphs, call = graphed(Model().eval())
    for seed in range(12):
        late: dict[str, Any] = {"late": torch.ones(8)} if seed % 3 == 1 else {}
        given = inputs(seed, power=1 + (seed % 3 == 2), **late)
        same(call(**given), Model().eval()(**given))
    assert graphs.report.graphs == 3
    assert graphs.report.replayed == 6


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.first.weight.mul_(2),
        lambda model: model.load_state_dict({k: v + 1 for k, v in model.state_dict().items()}),
        lambda model: setattr(model.first, "weight", nn.Parameter(model.first.weight * 3)),
        lambda model: setattr(model, "second", nn.Linear(16, 8)),
        lambda model: setattr(model.first.weight, "data", model.first.weight * 3),
        lambda model: model.register_buffer("another", torch.ones(1)),
        lambda model: model.more.__delitem__(slice(1, 2)),
    ],
    ids=[
        "in place",
        "load_state_dict",
        "another parameter",
        "another module",
        "other data",
        "a buffer",
        "fewer modules",
    ],
)
@torch.no_grad()
def test_weights_that_change_let_the_graph_go(change: Any) -> None:
    model = Model().eval()
    graphs, call = graphed(model)
    for seed in range(3):
        call(**inputs(seed))
    assert graphs.report.graphs == 1
    change(model)
    for seed in range(3, 6):
        same(call(**inputs(seed)), model(**inputs(seed)))
    assert graphs.report.dropped == 1
    assert graphs.report.replayed == 2


@torch.no_grad()
def test_another_adapter_lets_the_graph_go() -> None:
    """Also one that is no LoRA, of which no scale is known."""
    peft = pytest.importorskip("peft")
    model: Any = Model()
    config = peft.IA3Config(target_modules=["first"], feedforward_modules=[], init_ia3_weights=False)
    for name in ("a", "b"):
        peft.inject_adapter_in_model(config, model, name)
    model.first.set_adapter("a")
    graphs, call = graphed(model.eval())
    for seed in range(6):
        if seed == 3:
            model.first.set_adapter("b")
        same(call(**inputs(seed)), model(**inputs(seed)))
    assert graphs.report.dropped == 1
    assert graphs.report.replayed == 2


class Writes(Model):
    """A model that writes."""

    def forward(self, x: Tensor, **given: Any) -> Any:  # type: ignore[override]
        """Write to an argument, as in place activations do."""
        return super().forward(x.mul_(0.5), **given)


class Reads(Model):
    """A model that reads."""

    def forward(self, x: Tensor, **given: Any) -> Any:  # type: ignore[override]
        """Ask what is in an argument."""
        return super().forward(x * (2 if x.mean().item() > 0 else 3), **given)


class Forgets(Model):
    """A model with a state in Python."""

    def forward(self, x: Tensor, **given: Any) -> Any:  # type: ignore[override]
        """Compute with a number that only Python knows."""
        self.calls = getattr(self, "calls", 0) + 1
        return super().forward(x * self.calls, **given)


@torch.no_grad()
def test_a_model_that_writes_to_its_arguments_runs_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    graphs, call = graphed(Writes().eval())
    for seed in range(5):
        same(call(**inputs(seed)), Writes().eval()(**inputs(seed)))
    assert graphs.report.captured == graphs.report.replayed == 0
    assert graphs.report.eager == {"the model writes to its arguments": 4}
    assert [r.message for r in caplog.records] == [
        "the Model runs without a CUDA graph, as the model writes to its arguments"
    ]


@torch.no_grad()
def test_schedules_are_planned_for_replays_where_there_will_be_some() -> None:
    """Not in a call that is launched each time."""
    planned: list[bool] = []

    class Plans(Model):
        def forward(self, x: Tensor, **given: Any) -> Any:  # type: ignore[override]
            planned.append(auto._replayed)
            return super().forward(x, **given)

    model = Plans().eval()
    _, call = graphed(model)
    for seed in range(4):
        call(**inputs(seed))
    assert planned == [True, True, True]  # rehearsed twice and recorded; then replayed
    model.first.register_forward_hook(lambda *_: None)
    call(**inputs(4))
    assert planned[3:] == [False]
    assert not auto._replayed


@torch.no_grad()
def test_a_model_for_which_the_host_waits_runs_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    """Of each form: another one may do without."""
    graphs, call = graphed(Reads().eval(), WatchfulRecorder())
    for seed in range(6):
        given = inputs(seed, tokens=6 + seed % 2)
        same(call(**given), Reads().eval()(**given))
    report = graphs.report
    assert (report.rehearsed, report.captured, report.replayed) == (2, 0, 0)
    assert report.eager == {"the host waits for the GPU in 1 of its operations": 4}
    assert [r.message for r in caplog.records] == [
        "the Model runs without a CUDA graph, as the host waits for the GPU in 1 of its operations"
    ]


@torch.no_grad()
def test_a_capture_that_fails_is_refused() -> None:
    _, call = graphed(Reads().eval())
    call(**inputs(0))
    with pytest.raises(UnsupportedError, match=r"could not be captured as a CUDA graph on rank 0 \(HostRead"):
        call(**inputs(1))


@torch.no_grad()
def test_a_graph_that_computes_something_else_is_refused() -> None:
    """What the first replay gives is compared with the call itself."""
    _, call = graphed(Forgets().eval())
    call(**inputs(0))
    with pytest.raises(UnsupportedError, match="was captured as a CUDA graph that computes something else on rank 0"):
        call(**inputs(1))


class RunsInstead(OperatorRecorder):
    """A recorder whose calls run while they are recorded, and of which nothing is recorded."""

    def record(self, call: Any) -> OperatorRecording:
        """Run it."""
        recording = super().record(call)
        recording._steps.clear()
        return recording


@torch.no_grad()
def test_what_ran_instead_of_being_recorded_is_refused() -> None:
    """Its output is that of the capture, which is of no call."""
    _, call = graphed(Model().eval(), RunsInstead())
    call(**inputs(0))
    with pytest.raises(UnsupportedError, match="computes something else"):
        call(**inputs(1))


@torch.no_grad()
def test_why_a_capture_failed_is_said_where_the_others_do_not_hear_of_it() -> None:
    def exchange(value: Any, what: str) -> list[Any]:
        if value is not None:
            raise CommunicationError("rank 1 did not come")
        return [value]

    _, call = graphed(Reads().eval(), exchange=exchange)
    call(**inputs(0))
    with pytest.raises(UnsupportedError, match=r"captured as a CUDA graph here \(HostRead.*, and rank 1 did not come"):
        call(**inputs(1))


@torch.no_grad()
def test_a_graph_keeps_what_it_reads() -> None:
    """A table that a cache lets go is still read by replays; what the call makes itself is not kept."""
    model = Model().eval()
    given = inputs(0)
    model(**given)
    with OutsideTensors() as read:
        model(**given)
    kept = {id(tensor) for tensor in read.found}
    table, *_ = model.tables.values()
    assert kept == {
        *map(id, model.parameters()),
        id(given["x"]),
        id(given["time"]),
        *map(id, given["texts"]),
        id(table),
    }


@torch.no_grad()
def test_forms_that_never_come_again_are_told(caplog: pytest.LogCaptureFixture) -> None:
    graphs, call = graphed(Model().eval())
    for tokens in range(3, 12):
        call(**inputs(0, tokens))
    assert graphs.report.rehearsed == 9
    (said,) = [record.message for record in caplog.records]
    assert "6 times in a row with another x" in said


def test_infinities_do_not_hide_what_differs() -> None:
    right = torch.tensor([1.0, float("inf"), float("nan")])
    assert _difference(right.clone(), right) is None
    assert _difference(torch.tensor([2.0, float("inf"), float("nan")]), right) == "off by 1 of its size"
    assert _difference(torch.tensor([1.0, 1.0, float("nan")]), right) == "other infinities or NaNs"


@pytest.mark.parametrize("fault", ["inputs are not copied", "outputs are not copied", "forms are not told apart"])
@torch.no_grad()
def test_faults_of_the_runner_would_be_seen(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """Deliberate ones: what the tests above compare depends on each of these."""
    from tokenring_xdit.graphs import forms, runner

    if fault == "inputs are not copied":
        monkeypatch.setattr(runner._Buffers, "fill", lambda self, tensors: self.versions)
    elif fault == "outputs are not copied":
        monkeypatch.setattr(runner, "_copied", lambda output: output)
    else:
        monkeypatch.setattr(forms, "_SCALARS", forms._SCALARS)
        monkeypatch.setattr(runner, "describe", lambda *a, **k: _of_one_form(forms.describe(*a, **k)))
    _, call = graphed(Model().eval())
    if fault == "inputs are not copied":
        with pytest.raises(UnsupportedError, match="computes something else"):
            [call(**inputs(seed)) for seed in range(2)]
        return
    found = [call(**inputs(seed, power=1 + (seed > 2))) for seed in range(5)]
    expected = [Model().eval()(**inputs(seed, power=1 + (seed > 2))) for seed in range(5)]
    off = [(mine[0] - right[0]).abs().max().item() for mine, right in zip(found, expected, strict=True)]
    assert max(off) > 1e-2


def _of_one_form(described: Any) -> Any:
    from dataclasses import replace

    from tokenring_xdit.graphs.forms import CallForm

    return replace(described, form=CallForm(()))


@torch.no_grad()
def test_training_hooks_compiled_parts_and_autocast_run_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    model = Model()
    graphs, call = graphed(model)
    call(**inputs(0))
    model.eval()
    handle = model.first.register_forward_hook(lambda *_: None)
    call(**inputs(1))
    handle.remove()
    model.second.compile()
    call(**inputs(2))
    model.second._compiled_call_impl = None
    with torch.autocast("cpu", torch.bfloat16):
        call(**inputs(2))
    for seed in range(3, 7):
        same(call(**inputs(seed)), model(**inputs(seed)))
    assert list(graphs.report.eager.values()) == [1, 1, 1, 1]
    assert graphs.report.replayed == 2
    assert "the model is in training mode" in caplog.text
    assert "would not be called" in caplog.text
    assert "was compiled" in caplog.text


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="an older torch")
def test_precision_that_was_set_by_its_newer_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then torch refuses to say it by the older one."""

    def refuse() -> str:
        raise RuntimeError("you have used mix of the legacy and new APIs")

    monkeypatch.setattr(torch, "get_float32_matmul_precision", refuse)
    assert len(surroundings()[0]) == 2


def test_gradients_are_not_recorded_by_graphs() -> None:
    graphs, call = graphed(Model().eval())
    out, _ = call(**inputs(0))
    assert out.requires_grad
    assert any("gradients would be recorded" in reason for reason in graphs.report.eager)


def test_calls_in_inference_mode_and_outside_of_it_by_turns() -> None:
    graphs, call = graphed(Model().eval())
    for seed in range(6):
        with torch.inference_mode() if seed % 2 else torch.no_grad():
            same(call(**inputs(seed)), Model().eval()(**inputs(seed)))
    assert graphs.report.replayed == 4


@torch.no_grad()
def test_a_capture_is_told_with_its_memory(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tokenring_xdit.graphs")
    _, call = graphed(Model().eval(), most=3)
    for seed in range(3):
        call(**inputs(seed))
    (said,) = [record.message for record in caplog.records]
    assert "the Model was captured as a CUDA graph of 0.00 GB; 1 of at most 3 graphs" in said


@torch.no_grad()
def test_the_recorder_for_processors_does_operators_again() -> None:
    """What the tests stand on: Python is not run again, and reads of the host are refused."""
    x, ran = torch.ones(3), []

    def call() -> Tensor:
        ran.append(1)
        return (x * 2).add_(1).view(3, 1)

    recording = OperatorRecording(call)
    x.fill_(5)
    recording.replay()
    assert recording.output.flatten().tolist() == [11.0] * 3
    assert len(ran) == 1
    for read in (lambda: x.sum().item(), lambda: x[x > 0], lambda: x.__setitem__(x > 0, x[:1])):
        with pytest.raises(HostRead):
            OperatorRecording(read)
