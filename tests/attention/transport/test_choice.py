"""What carries programs: shared memory between ranks of one machine and one network, and never past a network."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attention.trouble import SEPARATE, cannot_open, carried, mapped, run, wants
from tokenring_xdit.attention.transport.choice import TRANSPORT_VARIABLE, Standpoint, wanted, why_not_shared
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.liveness import LIMIT_VARIABLE

HERE = Standpoint("boot pid:[1]", "net:[1]", None)


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (HERE, None),
        (HERE._replace(network="net:[2]"), "ranks 0 and 1 are in different networks of one machine"),
        (
            HERE._replace(processes="boot pid:[2]"),
            "ranks 0 and 1 are on different machines, or in different containers",
        ),
        (HERE._replace(network=None), "rank 1 does not know which machine and which network it is on"),
        (HERE._replace(processes=None), "rank 1 does not know which machine and which network it is on"),
        (HERE._replace(why_not="it is for Linux on x86-64"), "rank 1: it is for Linux on x86-64"),
    ],
)
def test_memory_is_shared_by_ranks_of_one_machine_and_one_network(other: Standpoint, sentence: str | None) -> None:
    assert why_not_shared([HERE, other, HERE], ["0", "1", "2"]) == sentence


@pytest.mark.parametrize(
    ("others", "sentence"),
    [
        (["GPU-b", "GPU-c"], None),
        (["GPU-b", "GPU-d"], "the GPUs of ranks 0 and 2 do not reach each other's memory (no P2P)"),
        (["GPU-e", "GPU-c"], "the GPUs of ranks 0 and 1 do not reach each other's memory (no P2P)"),
        (["GPU-b", "GPU-b"], "ranks 1 and 2 are on one GPU, which torch allows with TORCH_SYMM_MEM_ALLOW_OVERLAPPING_"),
    ],
)
def test_gpus_share_memory_where_each_reaches_that_of_all_others(others: list[str], sentence: str | None) -> None:
    first = HERE._replace(gpu="GPU-a", cut_off=["GPU-d"])
    cut_off = {"GPU-e": ["GPU-a"]}  # as only one of the two sees
    rest = [HERE._replace(gpu=gpu, cut_off=cut_off.get(gpu, [])) for gpu in others]
    found = why_not_shared([first, *rest], ["0", "1", "2"])
    assert found == sentence or (sentence and found and found.startswith(sentence))
    overlapping = [each._replace(overlapping=True) for each in (first, *rest)]
    assert why_not_shared(overlapping, ["0", "1", "2"]) == (None if others == ["GPU-b", "GPU-b"] else sentence)


def test_gpus_of_one_number_are_one_for_torch() -> None:
    """Where each process sees a GPU of its own only; torch would refuse it in the midst of opening their memory."""
    own = [HERE._replace(gpu=f"GPU-{rank}", number=0) for rank in range(2)]
    found = why_not_shared(own, ["0", "1"])
    assert found is not None
    assert found.startswith(
        "for ranks 0 and 1 their GPU is number 0, which torch takes for one GPU: have CUDA_VISIBLE_"
    )
    assert why_not_shared([each._replace(overlapping=True) for each in own], ["0", "1"]) is None
    assert why_not_shared([own[0], own[1]._replace(number=1)], ["0", "1"]) is None


def test_nobody_shares_who_does_not_know_where_he_is() -> None:
    nowhere = HERE._replace(network=None)
    assert why_not_shared([nowhere, nowhere], ["0", "1"]) is not None


def test_what_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRANSPORT_VARIABLE, "pigeons")
    with pytest.raises(
        ConfigurationError, match=r"TRANSPORT='pigeons' is no transport: there are process-groups, symm"
    ):
        wanted()


@pytest.mark.ranks
@pytest.mark.parametrize(
    ("network", "environment", "transport"),
    [
        (None, {}, "SymmetricTransport"),
        ("net", {}, "GlooTransport"),
        (None, {SEPARATE: "1", LIMIT_VARIABLE: "60"}, "GlooTransport"),
        (None, {TRANSPORT_VARIABLE: "process-groups"}, "GlooTransport"),
    ],
)
def test_ranks_take_it_together(
    network: str | None, environment: dict[str, str], transport: str, tmp_path: Path
) -> None:
    asked = {TRANSPORT_VARIABLE: "symmetric", **environment}
    for rank in run(3, carried, network, folder=tmp_path, awaited=(0, 1, 2), environment=asked):
        assert rank.lines == ["right", transport]


@pytest.mark.ranks
def test_ranks_that_want_different_things_are_told(tmp_path: Path) -> None:
    for mine in ("process-groups", "pigeons"):
        for rank in run(3, wants, mine, "symmetric", folder=tmp_path, awaited=(0, 1, 2)):
            refused, *rest = rank.lines
            assert refused.startswith("AgreementError: ") and mine in refused, refused
            assert rest == ["right", "SymmetricTransport", "right", "GlooTransport"]


@pytest.mark.ranks
def test_memory_that_cannot_be_opened_is_not_shared(tmp_path: Path) -> None:
    asked = {TRANSPORT_VARIABLE: "symmetric"}
    for rank in run(3, cannot_open, "at first", folder=tmp_path, awaited=(0, 1, 2), environment=asked):
        assert rank.lines == ["right", "GlooTransport"]
    for rank in run(3, cannot_open, "when it grows", folder=tmp_path, awaited=(0, 1, 2), environment=asked):
        first, second, _ = rank.lines
        assert first == "right"
        assert second.startswith("CommunicationError: rank 1 cannot open the memory of rank 0, process ")
        assert "Permission denied; TOKENRING_TRANSPORT=process-groups does without it" in second


@pytest.mark.ranks
def test_nothing_is_left_of_memory_whose_ranks_are_gone(tmp_path: Path) -> None:
    """It has no name in any file system, so that the kernel frees it with the last process; rank 1 is killed."""
    before = {*Path("/dev/shm").iterdir()}
    said = run(3, mapped, folder=tmp_path, environment={TRANSPORT_VARIABLE: "symmetric"})
    for rank in said:
        assert rank.lines[1] == f"{[['/memfd:tokenring', '(deleted)']] * 3}"
    assert not {file for file in {*Path("/dev/shm").iterdir()} - before if "tokenring" in file.name}
    assert not [rank.pid for rank in said if Path(f"/proc/{rank.pid}").exists()]
