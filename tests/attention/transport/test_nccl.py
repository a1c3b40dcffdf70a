"""What NCCL is asked for, which runs on GPUs only: groups that note what is posted stand in for it."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from tokenring_xdit.attention.transport.base import Parcel
from tokenring_xdit.attention.transport.nccl import CTAS_VARIABLE, NcclTransport, agreed_ctas, ctas_beside_attention
from tokenring_xdit.attention.waits import Broken
from tokenring_xdit.errors import AgreementError, ConfigurationError
from tokenring_xdit.schedule import build
from tokenring_xdit.schedule.lower import lower
from tokenring_xdit.schedule.problem import Problem

CPU = torch.device("cpu")


class Work:
    """A transfer that is over."""

    def wait(self) -> None:
        """Return at once."""


class Noting:
    """A process group that carries nothing."""

    def __init__(self) -> None:
        self.posted: list[str] = []

    def _start_coalescing(self, device: torch.device) -> None:
        self.posted.append("(")

    def _end_coalescing(self, device: torch.device) -> Work:
        self.posted.append(")")
        return Work()

    def send(self, tensors: list[torch.Tensor], peer: int, tag: int) -> Work:
        """Note it."""
        self.posted.append(f"to {peer}")
        return Work()

    def recv(self, tensors: list[torch.Tensor], peer: int, tag: int) -> Work:
        """Note it."""
        self.posted.append(f"from {peer}")
        return Work()

    def _allgather_base(self, coming: torch.Tensor, own: torch.Tensor) -> Work:
        self.posted.append("gather")
        return Work()


def opened(monkeypatch: pytest.MonkeyPatch, *names: str) -> tuple[NcclTransport, dict[str, Noting]]:
    """The transport of rank 1 of 3."""
    monkeypatch.setattr(dist, "barrier", lambda *args, **options: None)
    transport = NcclTransport(1, 3, CPU, lambda works, size: None)
    groups = {name: Noting() for name in names}
    for name, group in groups.items():
        transport.open(name, group, lambda purpose: pytest.fail("a channel has one group"))  # type: ignore[arg-type]
    return transport, groups


def begin(transport: NcclTransport, wide: str) -> None:
    problem = Problem.even(3, 24, 2, 8)
    programs = lower(build(f"token_ring{wide}", 3, heads=2).schedule, problem, in_order=True)
    transport.begin("", programs, torch.float32, torch.float32)


def test_every_pair_of_ranks_is_connected_when_a_channel_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL does so at the first message of a pair, which cannot be captured."""
    transport, groups = opened(monkeypatch, "q", "o-alone")
    assert groups["q"].posted == ["(", "from 0", "from 2", "to 0", "to 2", ")"]
    assert groups["o-alone"].posted == [*groups["q"].posted, "gather"]
    assert transport.bytes_sent == 0


def test_an_exchange_is_one_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    transport, groups = opened(monkeypatch, "q")
    groups["q"].posted.clear()
    parcels = [Parcel("q", torch.zeros(2), peer) for peer in (2, 0)]
    transport.post(parcels, parcels[::-1])
    assert groups["q"].posted == ["(", "from 2", "from 0", "to 0", "to 2", ")"]


def test_an_exchange_that_fails_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL posts nothing of a thread that is inside of one."""
    transport, groups = opened(monkeypatch, "q")

    def aborted(tensors: list[torch.Tensor], peer: int, tag: int) -> Work:
        raise RuntimeError("NCCL communicator was aborted")

    groups["q"].posted.clear()
    monkeypatch.setattr(groups["q"], "send", aborted)
    parcels = [Parcel("q", torch.zeros(2), 0)]
    with pytest.raises(Broken, match="aborted"):
        transport.post(parcels, parcels)
    assert groups["q"].posted == ["(", "from 0", ")"]


def test_what_waits_for_everything_has_communicators_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    transport, groups = opened(monkeypatch, "q", "q-alone")
    parcel, own = Parcel("q", torch.zeros(2), 0), torch.zeros(1)
    for wide, used in (("", "q"), (":wide=3", "q-alone"), ("", "q")):
        for group in groups.values():
            group.posted.clear()
        begin(transport, wide)
        transport.post([parcel], [])
        transport.all_gather("q", torch.zeros(3), own)
        transport.end()
        assert [name for name, group in groups.items() if group.posted] == [used]
        assert groups[used].posted == ["(", "from 0", ")", "gather"]


@pytest.mark.parametrize("text", ["-1", "65", "many", "", "8.0", "²"])
def test_a_number_of_thread_blocks_that_is_none_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CTAS_VARIABLE, text)
    with pytest.raises(ConfigurationError, match=r"TOKENRING_NCCL_CTAS=.*: say 1 to 64, or 0 for as many as NCCL"):
        ctas_beside_attention()


def test_ranks_have_to_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CTAS_VARIABLE, raising=False)
    assert agreed_ctas([ctas_beside_attention()] * 2, ["0", "1"]) == 8
    assert agreed_ctas([0, 0], ["0", "1"]) is None
    with pytest.raises(AgreementError, match="TOKENRING_NCCL_CTAS is 8 on rank 4, 2 on rank 5: set it to the same"):
        agreed_ctas([8, 2], ["4", "5"])
