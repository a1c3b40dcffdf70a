"""What a prediction stands on is said as what it is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tokenring_xdit.planning import Machine
from tokenring_xdit.planning.figures import Standing, figures
from tokenring_xdit.topology import PRESETS, Counts, Rate, load_topology

GPU = Machine.of_gpus(678e12)


def standing(name: str, machine: Machine = GPU) -> dict[str, Standing]:
    """By the first words of each figure."""
    return {
        each.what.partition(",")[0]: each.standing for each in figures(load_topology(name), machine, Standing.GIVEN)
    }


def test_a_preset_is_published_and_its_curve_too_where_there_is_one() -> None:
    assert standing("hgx-h100")["links"] is standing("hgx-h100")["messages alone"] is Standing.PUBLISHED
    assert standing("dgx-a100")["links"] is Standing.PUBLISHED
    assert standing("dgx-a100")["messages alone"] is Standing.ASSUMED
    assert standing("mesh:4:1gbit")["links"] is Standing.GIVEN


@pytest.mark.parametrize("name", [*PRESETS, "hgx-h100*2@ib-ndr"])
def test_every_figure_of_every_preset_has_a_source(name: str) -> None:
    for figure in figures(load_topology(name), GPU, Standing.GIVEN):
        assert figure.source


def test_what_the_probe_measured_is_measured() -> None:
    network = load_topology("mesh:2:1gbit")
    links = tuple(replace(link, messages=((1 << 20, Rate.parse("1gbit")),)) for link in network.links)
    known = replace(network, links=links, devices=("NVIDIA H100", "NVIDIA H100"), counts=Counts.PAYLOAD)
    first, second, *_ = figures(known, GPU, Standing.MEASURED_HERE)
    assert first.standing is second.standing is Standing.MEASURED
    assert first.source == "by the probe, between NVIDIA H100"
    assert second.what == "messages alone, 1.00 MiB at 0.125 GB/s"


def test_a_curve_is_said_in_the_units_of_its_links() -> None:
    links, messages, *_ = figures(load_topology("hgx-h100"), GPU, Standing.GIVEN)
    assert links.what == "links, 450 GB/s in each direction"
    assert messages.what == "messages alone, 8.00 MiB at 210 GB/s to 1.00 GiB at 360 GB/s"


def test_captured_calls_launch_nothing() -> None:
    assert "launching" in standing("hgx-h100")
    whats = [figure.what for figure in figures(load_topology("hgx-h100"), GPU.captured(), Standing.GIVEN)]
    assert "launching, nothing" in whats


@pytest.mark.parametrize(("megabytes", "us"), [(1, 15.0), (4, 29.9)])
def test_short_messages_on_nvlink_take_what_was_published(megabytes: int, us: float) -> None:
    """NCCL's send and receive between two H100, both ways (github.com/meta-pytorch/torchcomms issue 2159)."""
    size, link = megabytes << 20, load_topology("hgx-h100").links[0]
    assert (GPU.latency + size / link.message_rate(size)) * 1e6 == pytest.approx(us, rel=0.01)
