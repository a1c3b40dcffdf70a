from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.topology.nvidia import (
    GpuLink,
    GpuTopology,
    LinkKind,
    best_order,
    main,
    parse,
    remarks,
    ring_pairs,
    ulysses_pairs,
)

RECORDED = Path(__file__).parents[1] / "scripts" / "topologies"


def recorded(name: str) -> GpuTopology:
    return parse((RECORDED / f"{name}.txt").read_text())


def made(words: dict[tuple[int, int], str], gpus: int, otherwise: str = "SYS") -> GpuTopology:
    """A machine from the links that differ from all others."""
    links = {pair: GpuLink.read(word) for pair, word in words.items()}
    rest = GpuLink.read(otherwise)
    return GpuTopology(
        tuple(range(gpus)),
        tuple(
            tuple(None if i == j else links.get((i, j), links.get((j, i), rest)) for j in range(gpus))
            for i in range(gpus)
        ),
    )


def nvlinks(topology: GpuTopology, order: tuple[int, ...]) -> list[int]:
    return [topology.between(one, other).nvlinks for one, other in ring_pairs(order)]


MACHINES = {  # GPUs, the link of the first two, the link of the first and the last
    "dgx-1": (8, "NV1", "SYS"),
    "dgx-a100": (8, "NV12", "NV12"),
    "hgx-h100": (8, "NV18", "NV18"),
    "4xa10": (4, "PHB", "PHB"),
    "4xpcie-two-sockets": (4, "PXB", "SYS"),
    "4xpcie-2017-driver": (4, "PHB", "SYS"),
    "2xgpu-one-bridge": (2, "NV3", "NV3"),
    "8xa6000-four-bridges": (8, "NV4", "SYS"),
    "4xa6000-two-bridges": (4, "NV4", "NODE"),
}


@pytest.mark.parametrize("name", [path.stem for path in RECORDED.glob("*.txt")])
def test_recorded_outputs_are_read(name: str) -> None:
    gpus, first_two, ends = MACHINES[name]
    topology = recorded(name)
    assert topology.gpus == tuple(range(gpus))
    assert str(topology.between(0, 1)) == first_two
    assert str(topology.between(gpus - 1, 0)) == ends


def test_underlined_headings_are_read() -> None:
    topology = parse("\t\x1b[4mGPU0\tGPU1\tCPU Affinity\x1b[0m\nGPU0\t X \tNV4\t0-7\nGPU1\tNV4\t X \t0-7\n")
    assert topology.between(0, 1) == GpuLink(LinkKind.NVLINK, 4)


def test_one_gpu_is_a_machine_too() -> None:
    topology = parse("\tGPU0\tCPU Affinity\nGPU0\t X \t0-7\n")
    assert best_order(topology) == (0,)
    assert remarks(topology, (0,)) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no output of 'nvidia-smi topo -m'"),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", "no output of"),
        ("\tGPU0\tGPU1\nGPU0\t X \tNV1\n", "no row for GPU1"),
        ("\tGPU0\tGPU1\nGPU0\t X \tNV1\nGPU1\tNV1\n", "row of GPU1 has 1 entries for 2 GPUs"),
        ("\tGPU0\tGPU1\nGPU0\t X \tNV1\nGPU1\tNV2\t X \n", "GPU0 to GPU1 is NV1, GPU1 to GPU0 is NV2"),
        ("\tGPU0\tGPU1\nGPU0\t X \tWIRE\nGPU1\tWIRE\t X \n", "'WIRE' is no link between GPUs; known: NV1"),
        ("\tGPU0\tGPU1\nGPU0\t X \t X \nGPU1\tNV1\t X \n", "entry of GPU0 for GPU1 is 'X'"),
        ("\tGPU0\tGPU1\nGPU0\t X \tNV1\nGPU1\tNV1\tNV1\n", "entry of GPU1 for GPU1 is 'NV1'"),
    ],
)
def test_what_is_no_matrix_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parse(text)


def test_a_dgx_1_has_a_ring_of_double_links() -> None:
    topology = recorded("dgx-1")
    order = best_order(topology)
    assert nvlinks(topology, order) == [2] * 8
    assert min(nvlinks(topology, tuple(range(8)))) == 0  # the order of the indices would not do


def test_where_all_are_linked_alike_the_indices_stay_in_order() -> None:
    assert best_order(recorded("hgx-h100")) == tuple(range(8))
    assert best_order(made({}, 16, "NV6")) == tuple(range(16))  # a DGX-2


def test_fewer_ranks_get_the_gpus_that_are_linked() -> None:
    assert best_order(made({(1, 3): "NV4"}, 4), ranks=2) == (1, 3)
    assert best_order(recorded("dgx-1"), ranks=4) == (0, 1, 2, 3)
    assert best_order(recorded("dgx-1"), [7, 6, 5, 4]) == (4, 5, 6, 7)


def test_bridged_pairs_are_neighbours_and_short_ways_join_them() -> None:
    topology = made({(0, 2): "NV4", (1, 3): "NV4", (2, 3): "PIX", (0, 1): "PIX"}, 4)
    assert best_order(topology) == (0, 1, 3, 2)


@given(st.data())
def test_no_other_ring_is_better(data: st.DataObject) -> None:
    gpus = data.draw(st.integers(2, 6))
    words = {pair: data.draw(st.sampled_from(["NV1", "NV2", "NV4", "PIX", "SYS"])) for pair in pairs(gpus)}
    topology = made(words, gpus)
    order = best_order(topology)
    assert sorted(order) == list(range(gpus))
    found = nvlinks(topology, order)
    for other in itertools.permutations(range(gpus)):
        rival = nvlinks(topology, other)
        assert (min(found), sum(found)) >= (min(rival), sum(rival))


@given(st.data())
def test_large_machines_are_not_made_worse(data: st.DataObject) -> None:
    gpus = data.draw(st.integers(9, 12))
    words = {pair: data.draw(st.sampled_from(["NV1", "NV2", "SYS"])) for pair in pairs(gpus)}
    topology = made(words, gpus)
    order = best_order(topology)
    assert sorted(order) == list(range(gpus))
    found, plain = nvlinks(topology, order), nvlinks(topology, tuple(range(gpus)))
    assert (min(found), sum(found)) >= (min(plain), sum(plain))


def test_large_machines_are_improved() -> None:
    order = (0, 5, 2, 7, 4, 1, 6, 3, 8, 9)
    topology = made(dict.fromkeys(ring_pairs(order), "NV2"), 10)
    assert sum(nvlinks(topology, best_order(topology))) > sum(nvlinks(topology, tuple(range(10))))


def pairs(gpus: int) -> list[tuple[int, int]]:
    return list(itertools.combinations(range(gpus), 2))


@pytest.mark.parametrize(
    ("gpus", "ranks", "message"),
    [
        ([0, 4], None, "there is no GPU 4; this machine has 0,1,2,3"),
        ([0, 1, 0], None, "named twice"),
        ([0, 1], 3, "3 ranks were asked for; 2 GPUs may be used"),
        (None, 0, "0 ranks were asked for"),
        ([], None, "0 ranks were asked for; 0 GPUs"),
    ],
)
def test_gpus_that_are_not_there_are_refused(gpus: list[int] | None, ranks: int | None, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        best_order(recorded("4xa10"), gpus, ranks)


def test_nothing_is_remarked_where_all_are_connected() -> None:
    assert remarks(recorded("dgx-a100"), range(8)) == []


def test_neighbours_without_nvlink_are_named() -> None:
    warning, note = remarks(recorded("4xa6000-two-bridges"), (0, 1, 2, 3))
    assert "2 of 4 pairs of neighbours in the ring" in warning
    assert ": GPU 1 and GPU 2, GPU 3 and GPU 0. " in warning
    assert "NODE (PCIe and several host bridges of one CPU)" in warning and "SYS" not in warning
    assert note.startswith("note: 2 of 6 pairs of a ring are not neighbours")


def test_a_machine_without_nvlink_gets_one_remark() -> None:
    (remark,) = remarks(recorded("4xpcie-two-sockets"), (0, 1, 2, 3))
    assert "no two of the GPUs 0,1,2,3" in remark
    assert "by PIX (one PCIe switch) and PXB (several PCIe switches) and SYS (" in remark


def test_pairs_that_only_return_outputs_are_counted() -> None:
    topology = recorded("dgx-1")
    (remark,) = remarks(topology, best_order(topology))
    assert remark.startswith("note: 12 of 28 pairs of a ring are not neighbours")


def test_rings_lead_from_one_ulysses_group_to_the_next() -> None:
    assert ulysses_pairs((7, 6, 5, 4, 3, 2), 2) == [(7, 6), (5, 4), (3, 2)]
    assert ring_pairs((7, 6, 5, 4, 3, 2), 2) == [(7, 5), (5, 3), (3, 7), (6, 4), (4, 2), (2, 6)]
    assert ring_pairs((7, 6, 5, 4), 4) == []


def test_ulysses_gets_the_bridges_and_the_ring_the_short_ways() -> None:
    topology = made({(0, 3): "NV4", (1, 2): "NV4", (0, 1): "PIX", (2, 3): "PIX"}, 4)
    order = best_order(topology, ulysses=2)
    assert order == (0, 3, 1, 2)
    (warning,) = remarks(topology, order, 2)
    assert "2 of 2 pairs of neighbours in the ring" in warning and "by PIX" in warning and "SYS" not in warning


def test_ulysses_groups_without_nvlink_are_named() -> None:
    groups, ring = remarks(recorded("8xa6000-four-bridges"), range(8), 4)
    assert "8 of 12 pairs of a Ulysses group" in groups and ": GPU 0 and GPU 2, GPU 0 and GPU 3, " in groups
    assert "4 of 4 pairs of neighbours in the ring" in ring and "by SYS" in ring


@given(st.data())
def test_no_other_order_suits_ulysses_better(data: st.DataObject) -> None:
    words = {pair: data.draw(st.sampled_from(["NV1", "NV2", "NV4", "PIX", "SYS"])) for pair in pairs(6)}
    ulysses = data.draw(st.sampled_from([2, 3, 6]))
    topology = made(words, 6)

    def worth(order: Sequence[int]) -> list[int]:
        found = []
        for close in (ulysses_pairs(order, ulysses), ring_pairs(order, ulysses)):
            counts = [topology.between(*pair).nvlinks for pair in close] or [0]
            found += [min(counts), sum(counts)]
        return found

    best = worth(best_order(topology, ulysses=ulysses))
    assert all(best >= worth(order) for order in itertools.permutations(range(6)))


def test_groups_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="4 ranks on this machine make up no whole Ulysses groups of 3"):
        best_order(recorded("4xa10"), ulysses=3)


def test_the_command_prints_the_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(RECORDED / "dgx-1.txt"), "--ranks", "8"]) == 0
    out, err = capsys.readouterr()
    assert out == "0,3,2,1,5,6,7,4\n"
    assert "12 of 28" in err
    assert main([str(RECORDED / "dgx-1.txt"), "--ulysses-degree", "2"]) == 0
    assert capsys.readouterr().out == "0,3,1,2,5,6,4,7\n"


def test_a_machine_inside_a_larger_ulysses_group_is_all_of_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(RECORDED / "8xa6000-four-bridges.txt"), "--ulysses-degree", "16"]) == 0
    (warning,) = capsys.readouterr().err.splitlines()
    assert "24 of 28 pairs of a Ulysses group" in warning


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--visible", "GPU-8932f937,GPU-1"], "CUDA_VISIBLE_DEVICES is 'GPU-8932f937,GPU-1'; GPUs are put in order"),
        (["--visible", ""], "CUDA_VISIBLE_DEVICES is ''"),
        (["--gpus", "0,x"], "--gpus is '0,x'"),
        (["--gpus", "2", "--visible", "0,1"], "GPU 2 is not in CUDA_VISIBLE_DEVICES, which is 0,1"),
        (["--gpus", "0,9"], "there is no GPU 9"),
        (["--ranks", "0"], "0 ranks were asked for"),
    ],
)
def test_the_command_refuses(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO((RECORDED / "4xa10.txt").read_text()))
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err


def test_the_command_refuses_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nowhere.txt"]) == 2
    assert "nowhere.txt" in capsys.readouterr().err
