"""Which rank is where on a cluster, and what it finds there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scripts.support import TOPOLOGIES
from tokenring_xdit import Engine
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.pipelines.places import name_on_ranks
from tokenring_xdit.topology.nvidia import best_order, parse
from tokenring_xdit.workers.on_ray.seats import (
    Seat,
    carried_over,
    cluster_name,
    in_order,
    inherited,
    interface_of,
    variables,
)


def test_clusters_are_told_apart_by_their_address_and_their_gpus() -> None:
    resources = {"CPU": 8.0, "node:10.0.0.1": 1.0}
    names = [cluster_name("10.0.0.1:6379", resources), cluster_name("10.0.0.2:6379", resources)]
    names.append(cluster_name("10.0.0.1:6379", {**resources, "GPU": 4.0, "accelerator_type:H100": 1.0}))
    assert names == ["ray 10.0.0.1:6379", "ray 10.0.0.2:6379", "ray 10.0.0.1:6379, H100"]


def test_ranks_are_node_by_node_and_the_fullest_node_first() -> None:
    seats = [Seat(0, "a", "10.0.0.1"), Seat(1, "b", "10.0.0.2"), Seat(2, "b", "10.0.0.2"), Seat(3, "a", "10.0.0.1")]
    seats.append(Seat(4, "b", "10.0.0.2"))
    assert [seat.bundle for seat in in_order(seats)] == [1, 2, 4, 0, 3]


def test_in_a_node_ranks_follow_the_links_of_its_gpus() -> None:
    machines = {path.read_text(): parse(path.read_text()) for path in sorted(Path(TOPOLOGIES).glob("*.txt"))}
    links, topology = next((text, each) for text, each in machines.items() if best_order(each) != each.gpus)
    seats = [Seat(bundle, "a", "10.0.0.1", (str(gpu),), links) for bundle, gpu in enumerate(reversed(topology.gpus))]
    assert tuple(int(seat.gpus[0]) for seat in in_order(seats)) == best_order(topology)
    unknown = [Seat(seat.bundle, "a", "10.0.0.1", seat.gpus) for seat in seats]
    assert [int(seat.gpus[0]) for seat in in_order(unknown)] == sorted(topology.gpus)


def test_a_rank_finds_what_torchrun_would_tell_it_and_the_gpus_of_its_node() -> None:
    seats = [Seat(2, "a", "10.0.0.1", ("3",)), Seat(0, "a", "10.0.0.1", ("1",)), Seat(1, "b", "10.0.0.2", ("0",))]
    assert variables(seats, 1, 4000) == {
        "RANK": "1",
        "WORLD_SIZE": "3",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "4000",
        "CUDA_VISIBLE_DEVICES": "3,1",
    }
    assert variables(seats, 2, 4000)["LOCAL_RANK"] == "0"
    assert variables(seats, 2, 4000)["CUDA_VISIBLE_DEVICES"] == "0"


def test_keys_and_what_is_of_one_process_stay_at_home() -> None:
    said = {
        "NCCL_DEBUG": "WARN",
        "TOKENRING_LIVENESS_LIMIT": "9",
        "HF_HOME": "/models",
        "TOKENRING_API_KEY": "secret",
        "CUDA_VISIBLE_DEVICES": "0",
        "TOKENRING_INIT_METHOD": "file:///x",
        "PATH": "/bin",
        "RAY_ADDRESS": "auto",
    }
    assert sorted(carried_over(said)) == ["HF_HOME", "NCCL_DEBUG", "TOKENRING_LIVENESS_LIMIT"]
    assert sorted(said.keys() - inherited(said).keys()) == ["RAY_ADDRESS", "TOKENRING_API_KEY"]


def test_folders_and_files_are_named_so_that_ranks_elsewhere_find_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loras").mkdir()
    (tmp_path / "loras/style.safetensors").touch()
    assert name_on_ranks("loras/style.safetensors", "auto") == str(tmp_path / "loras/style.safetensors")
    assert name_on_ranks("loras/style.safetensors", None) == "loras/style.safetensors"
    assert name_on_ranks("black-forest-labs/FLUX.1-dev", "auto") == "black-forest-labs/FLUX.1-dev"


def test_what_only_the_nodes_have_is_not_missed_here() -> None:
    for options in ({"attention_backend": "flash"}, {"cuda_graphs": True}):
        with pytest.raises(ConfigurationError, match="ray is 3"):
            Engine("embedded", tokenring_degree=2, ray=3, **options)  # type: ignore[arg-type]


def test_the_interface_of_an_address() -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("203.0.113.77") is None
