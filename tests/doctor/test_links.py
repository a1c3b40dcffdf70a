"""What is made of times of messages."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tokenring_xdit.doctor.links import with_messages
from tokenring_xdit.doctor.record import MessageTiming
from tokenring_xdit.topology import Rate, load_network, load_topology, network_to_yaml
from tokenring_xdit.topology.alone import NVLINK_4

PUBLISHED = {1: 15.0e-6, 8: 50e-6, 32: 141e-6, 128: 475e-6, 1024: 2988e-6}
"""Seconds of messages of that many MiB between two H100, both ways; see NVLINK_4_SOURCE."""


def timings(seconds: dict[int, float]) -> list[MessageTiming]:
    sizes = {megabytes << 20: time for megabytes, time in seconds.items()}
    return [MessageTiming(size=size, rate=size / time, both_ways=size / time) for size, time in sizes.items()]


def test_published_times_give_the_published_curve(tmp_path: object) -> None:
    bare = load_topology("hgx-h100")
    bare = replace(bare, links=tuple(replace(link, messages=()) for link in bare.links))
    found = with_messages(bare, timings(PUBLISHED), 10e-6)
    for link in found.links:
        assert [size for size, _ in link.messages] == [size for size, _ in NVLINK_4]  # 1 MiB is mostly latency
        rates = [rate.bits_per_second for _, rate in link.messages]
        assert rates == pytest.approx([rate.bits_per_second for _, rate in NVLINK_4], rel=0.01)


def test_the_file_keeps_the_curve(tmp_path: object) -> None:
    found = with_messages(load_topology("hgx-h100"), timings(PUBLISHED), 10e-6)
    path = f"{tmp_path}/topology.yaml"
    with open(path, "w") as file:
        file.write(network_to_yaml(found))
    assert [link.messages for link in load_network(path).links] == [link.messages for link in found.links]


def test_links_that_differ_are_left_as_they_are() -> None:
    network = load_topology("hgx-h100")
    slow = replace(network.links[0], rate=Rate(10**9), messages=())
    mixed = replace(network, links=(slow, *network.links[1:]))
    assert with_messages(mixed, timings(PUBLISHED), 10e-6) == mixed
