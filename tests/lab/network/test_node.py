"""What the nodes of an emulated network are told, without building one."""

from __future__ import annotations

import os
import re

import pytest

from tokenring_xdit.lab.network import parse_network
from tokenring_xdit.lab.network.node import steering


@pytest.mark.parametrize("processors", [1, 2, 32, 33, 96])
def test_one_processor_takes_what_arrives_over_a_link(monkeypatch: pytest.MonkeyPatch, processors: int) -> None:
    """Another one at the other end; written as the kernel's ``bitmap_parse`` reads it, in words of at most 32 bits."""
    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    network = parse_network("mesh:8:50mbit")
    chosen: dict[str, set[int]] = {}
    for node in network.nodes:
        for text, device in re.findall(
            r"echo (\S+) > /sys/class/net/(\w+)/queues/rx-0/rps_cpus", steering(network, node)
        ):
            words = [int(word, 16) for word in text.split(",")]
            assert max(words) < 1 << 32
            number = sum(word << 32 * place for place, word in enumerate(reversed(words)))
            assert number.bit_count() == 1
            chosen.setdefault(device, set()).add(number.bit_length() - 1)
    assert len(chosen) == len(network.links)
    assert {len(ends) for ends in chosen.values()} == {min(2, processors)}
    assert set().union(*chosen.values()) == set(range(min(processors, 2 * len(network.links))))
