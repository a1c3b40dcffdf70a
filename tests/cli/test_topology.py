from __future__ import annotations

import json
from pathlib import Path

import pytest

from tokenring_xdit.cli import main
from tokenring_xdit.topology import PRESETS, load_topology


@pytest.mark.parametrize("name", ["dgx-1", "hgx-h100*2@ib-ndr", "two-level:2x4:10gbit:1gbit", "ring:3:1gbit"])
def test_what_is_shown_as_yaml_is_the_same_network(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["topology", "show", name, "--yaml"]) == 0
    path = tmp_path / "shown.yaml"
    path.write_text(capsys.readouterr().out)
    shown, named = load_topology(str(path)), load_topology(name)
    assert (shown.hosts, shown.switches, shown.links) == (named.hosts, named.switches, named.links)
    assert (shown.hosts_forward, shown.counts) == (named.hosts_forward, named.counts)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_names_its_sources_and_that_it_was_not_measured(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["topology", "show", name]) == 0
    table, _, sources = capsys.readouterr().out.partition("not measured here; sources:\n")
    assert all(str(link) in table for link in load_topology(name).links)
    assert sources.strip()


@pytest.mark.parametrize(
    ("name", "gpus", "gigabytes"),
    [
        ("dgx-a100", 8, 600),
        ("hgx-h100", 8, 900),
        ("hgx-h200", 8, 900),
        ("4xa10", 4, 50),
        ("4xl40s", 4, 50),
        ("4x4090", 4, 50),
    ],
)
def test_a_gpu_has_what_is_published_for_both_directions(name: str, gpus: int, gigabytes: int) -> None:
    network = load_topology(name)
    assert len(network.hosts) == gpus
    assert not network.hosts_forward
    for host in network.hosts:
        links = [link for link in network.links if host in link.ends]
        assert sum(link.rate.bits_per_second + link.back.bits_per_second for link in links) == gigabytes * 8e9


def test_the_list_names_nodes_and_fabrics(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["topology", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [node["name"] for node in listed["nodes"]] == list(PRESETS)
    assert main(["topology", "list"]) == 0
    printed = capsys.readouterr().out
    for fabric in listed["fabrics"]:
        assert f"  {fabric['name']} " in printed and fabric["source"]
        assert load_topology(f"{listed['nodes'][0]['name']}*2@{fabric['name']}").hosts


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hgx-h10", "Did you mean 'hgx-h100'?"),
        ("hgx-h100*2", "hgx-h100*2"),
        ("hgx-h100*2@ib-nrd", "Did you mean 'ib-ndr'?"),
        ("nowhere.yaml", "cannot be read"),
    ],
)
def test_what_is_no_topology_is_refused(name: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["topology", "show", name]) == 2
    assert message in capsys.readouterr().err
