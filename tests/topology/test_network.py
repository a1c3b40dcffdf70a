from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.topology import Link, Network, Rate, load_network, load_topology, parse_network
from tokenring_xdit.topology.files import network_from_mapping, network_to_mapping

FORMS = st.one_of(
    st.tuples(st.sampled_from(["mesh", "star", "ring"]), st.integers(2, 12)).map(lambda t: f"{t[0]}:{t[1]}:100mbit"),
    st.tuples(st.integers(2, 4), st.integers(1, 4)).map(lambda t: f"two-level:{t[0]}x{t[1]}:1gbit:100mbit"),
)


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("100mbit", 100_000_000),
        ("2.5gbit", 2_500_000_000),
        ("10 Gbit/s", 10_000_000_000),
        ("64kbit", 64_000),
        ("800bit", 800),
        ("0.1Tbit", 100_000_000_000),
    ],
)
def test_rates(text: str, bits: int) -> None:
    assert Rate.parse(text) == Rate(bits)


@given(st.integers(1, 10**14))
def test_a_rate_reads_as_it_is_written(bits: int) -> None:
    assert Rate.parse(str(Rate(bits))) == Rate(bits)


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("fast", ["'fast' is not a rate", "100mbit"]),
        ("100", ["'100' is not a rate"]),
        ("-1mbit", ["not a rate"]),
        ("0mbit", ["carries nothing"]),
        ("0.2bit", ["carries nothing"]),
        ("100mbits", ["has the unit 'mbits'", "Did you mean 'mbit'?"]),
        ("100mbps", ["has the unit 'mbps'", "bits and bytes are easily confused"]),
        ("100MB", ["has the unit 'mb'", "bits and bytes are easily confused"]),
    ],
)
def test_what_is_no_rate(text: str, messages: list[str]) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        Rate.parse(text)
    for message in messages:
        assert message in str(refusal.value)


def test_a_mesh_has_a_link_between_every_two_hosts() -> None:
    network = parse_network("mesh:4:100mbit")
    assert network.hosts == ("h0", "h1", "h2", "h3")
    assert network.switches == ()
    assert {frozenset(w.ends) for w in network.links} == {
        frozenset((a, b)) for a in network.hosts for b in network.hosts if a != b
    }
    assert {rate for w in network.links for rate in (w.rate, w.back)} == {Rate(100_000_000)}


def test_a_star_has_a_link_from_each_host_to_its_switch() -> None:
    network = parse_network("star:3:1gbit")
    assert network.switches == ("switch",)
    assert [w.ends for w in network.links] == [("h0", "switch"), ("h1", "switch"), ("h2", "switch")]
    assert network.route("h2", "h0") == ("h2", "switch", "h0")


def test_a_ring_has_as_many_links_as_hosts_and_the_half_way_round_is_clockwise() -> None:
    network = parse_network("ring:4:100mbit")
    assert [w.ends for w in network.links] == [("h0", "h1"), ("h1", "h2"), ("h2", "h3"), ("h3", "h0")]
    assert network.route("h0", "h2") == ("h0", "h1", "h2")
    assert network.route("h2", "h0") == ("h2", "h3", "h0")
    assert network.route("h0", "h3") == ("h0", "h3")
    assert len(parse_network("ring:2:100mbit").links) == 1


def test_groups_of_a_two_level_network_meet_over_its_slow_links() -> None:
    network = parse_network("two-level:2x4:1gbit:100mbit")
    assert len(network.hosts) == 8
    assert network.route("h0", "h3") == ("h0", "switch0", "h3")
    assert network.route("h3", "h4") == ("h3", "switch0", "core", "switch1", "h4")
    assert network.slowest_rate("h0", "h3") == Rate.parse("1gbit")
    assert network.slowest_rate("h3", "h4") == Rate.parse("100mbit")


@given(FORMS, st.data())
def test_routes_follow_links_and_every_node_on_the_way_agrees(form: str, data: st.DataObject) -> None:
    network = parse_network(form)
    source, destination = data.draw(st.permutations(network.nodes))[:2]
    path = network.route(source, destination)
    assert path[0] == source and path[-1] == destination and len(set(path)) == len(path)
    assert all(set(network.link(a, b).ends) == {a, b} for a, b in pairwise(path))
    # A packet is routed anew at each node: there the rest of the way has to be the same.
    assert all(network.route(node, destination) == path[at:] for at, node in enumerate(path))
    assert len(path) == len(network.route(destination, source))


@pytest.mark.parametrize(
    "text", ["mesh:5:100mbit", "star:5:100mbit", "ring:6:100mbit", "two-level:3x3:1gbit:100mbit", "hgx-h100*3@ib-ndr"]
)
@pytest.mark.parametrize("hosts_forward", [True, False])
def test_the_next_node_is_the_first_of_the_nearest_neighbours_that_pass_on(text: str, hosts_forward: bool) -> None:
    whole = load_topology(text)
    if text.startswith("ring") and not hosts_forward:
        return  # no network then
    network = replace(whole, hosts_forward=hosts_forward)

    def far(node: str, target: str, seen: frozenset[str] = frozenset()) -> int:
        if target in network.neighbours(node):
            return 1
        passing = [n for n in network.neighbours(node) if (hosts_forward or n in network.switches) and n not in seen]
        return 1 + min((far(n, target, seen | {node}) for n in passing), default=len(network.nodes))

    for target in network.hosts[:: len(network.hosts) // 3]:
        for source in {*network.hosts} - {target}:
            path = network.route(source, target)
            assert len(path) - 1 == far(source, target)
            for here, onward in pairwise(path[:-1]):
                passing = [n for n in network.neighbours(here) if hosts_forward or n in network.switches]
                first = next(n for n in passing if far(n, target) == far(here, target) - 1)
                assert onward == first


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("mash:4:100mbit", ["no network 'mash:4:100mbit'", "Did you mean 'mesh'?", "star:8:1gbit"]),
        ("twolevel:2x2:1gbit:1gbit", ["Did you mean 'two-level'?"]),
        ("", ["no network ''"]),
        ("mesh:4", ["1 of the 2 parts of mesh:N:RATE"]),
        ("two-level:2x4:1gbit", ["2 of the 3 parts of two-level:GxN:INNER:OUTER"]),
        ("mesh:four:100mbit", ["'mesh:four:100mbit': 'four' is no number of hosts", "Examples: "]),
        ("mesh:1:100mbit", ["1 hosts are no network"]),
        ("ring:0:100mbit", ["'0' is no number of hosts"]),
        ("star:4096:1gbit", ["4097 hosts and switches are more than the 4096"]),
        ("star:4:fast", ["'star:4:fast': 'fast' is not a rate", "Examples: "]),
        ("two-level:24:1gbit:1gbit", ["'24' is not groups x hosts, as in 2x4"]),
        ("two-level:1x4:1gbit:1gbit", ["one group has nobody to talk to"]),
    ],
)
def test_short_forms_that_are_refused(text: str, messages: list[str]) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        load_network(text)
    for message in messages:
        assert message in str(refusal.value)


def test_a_network_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "office.yaml"
    path.write_text(
        """
        hosts: [left, right, far]
        switches: [hub]
        links:
          - {between: [left, hub], rate: 1gbit}
          - {between: [right, hub], rate: 1gbit, back: 500mbit}
          - {between: [right, far], rate: 100mbit}
        """
    )
    network = load_network(str(path))
    assert network.nodes == ("left", "right", "far", "hub")
    assert network.links[1] == Link("right", "hub", Rate.parse("1gbit"), Rate.parse("500mbit"))
    assert network.route("left", "far") == ("left", "hub", "right", "far")
    assert network.slowest_rate("left", "right") == Rate.parse("500mbit")
    assert network.slowest_rate("right", "left") == Rate.parse("1gbit")


@pytest.mark.parametrize(
    ("measured", "accelerators", "emulated"),
    [
        ("{devices: [cpu, cpu], network: null}", False, False),
        ("{devices: [cpu, cpu], network: 'ring:2:1gbit'}", False, True),
        ("{devices: [NVIDIA H100, NVIDIA H100], network: null}", True, False),
        ("false", True, False),  # hosts that pass nothing on are GPUs where nobody says what they are
    ],
)
def test_where_a_network_was_measured_is_known(
    tmp_path: Path, measured: str, accelerators: bool, emulated: bool
) -> None:
    path = tmp_path / "probed.yaml"
    links = "links: [{between: [h0, h1], rate: 1gbit}]"
    path.write_text(f"hosts: 2\nhosts-forward: false\ncounts: payload\n{links}\nmeasured: {measured}\n")
    network = load_network(str(path))
    assert (network.of_accelerators, network.is_emulated) == (accelerators, emulated)
    again = network_from_mapping(network_to_mapping(network), name="again")
    assert (again.of_accelerators, again.is_emulated) == (accelerators, emulated)
    short = load_network("ring:2:1gbit")
    assert (short.of_accelerators, short.is_emulated) == (False, True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("notes: [2026-02-30]", "has a value that cannot be read"),
        ("[" * 5000, "is nested too deeply"),
        ("hosts: {a: 1", "is not YAML"),
        ("hosts: 2\nhosts: 3", "has keys twice:\n  hosts: stands on line 1 and again on line 2"),
        ("a: &a [1, 1]\n" + "\n".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 30)), "undefined alias"),
    ],
)
def test_files_that_yaml_cannot_read_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=r"broken.yaml'") as caught:
        load_network(str(path))
    assert message in str(caught.value)


HOSTS = "hosts: 2\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('hosts: ["\\e[31m", b]\nlinks: []', "'\\x1b[31m' is no name"),
        (HOSTS + 'links: "\\e[31m\\n  a mistake"', "not '\\x1b[31m\\n  a mistake'"),
        (HOSTS + 'links: []\n"\\e[31m": 1', "unknown key '\\x1b[31m'"),
        (HOSTS + 'links: [{between: [h0, h1], rate: "\\e[31m"}]', "'\\x1b[31m' is not a rate"),
        (HOSTS + f"links: [{{between: [h0, h1], rate: {'9' * 400}mbit}}]", "is not a rate"),
        (HOSTS + "links: [{between: [h0, h1], rate: [1]}]", "'rate' has to be text"),
        (HOSTS + "links: [" + "x, " * 50000 + "x]", "network file"),
        ("hosts: [a, b]\nlinks: [{between: [a, " + "n" * 9000 + "], rate: 1gbit}]", "which is no host or switch"),
        ("hosts: 4000\nlinks: []", "no links lead from h0 to h1, h2, h3, h4, h5, h6, h7, h8, ..."),
        (HOSTS + 'links: []\ncounts: "\\e"', "'\\x1b' is none of it"),
    ],
)
def test_what_a_file_says_is_quoted_harmlessly(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "hostile.yaml"
    path.write_text(content)
    with pytest.raises(ConfigurationError) as caught:
        load_network(str(path))
    assert message in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "name",
    [
        "mesh:4096:1gbit",
        "mesh:" + "9" * 5000 + ":1gbit",
        "two-level:4096x4096:1gbit:1gbit",
        "hgx-h100*4096@ib-ndr",
        "ring:4:\x1b[31m",
    ],
)
def test_short_forms_of_too_much_are_refused_at_once(name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_topology(name)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_a_number_of_hosts_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "pair.yml"
    path.write_text("{hosts: 2, links: [{between: [h0, h1], rate: 10mbit}]}")
    network = load_network(str(path))
    assert (network.hosts, network.links) == (
        parse_network("mesh:2:10mbit").hosts,
        parse_network("mesh:2:10mbit").links,
    )


@pytest.mark.parametrize(
    ("content", "messages"),
    [
        ("[", ["is not YAML"]),
        ("mesh", ["has to have the keys hosts, links"]),
        ("{hosts: 2}", ["lacks links"]),
        ("{hosts: 2, links: [], switch: [s]}", ["unknown key 'switch'", "Did you mean 'switches'?"]),
        ("{hosts: two, links: []}", ["'hosts' has to be a number or a list of names, not 'two'"]),
        ("{hosts: 1000000000, links: []}", ["more than the 4096"]),
        ("{hosts: 2, switches: s, links: []}", ["'switches' has to be a list of names"]),
        ("{hosts: 2, links: {}}", ["'links' has to be a list"]),
        ("{hosts: 2, links: []}", ["no links lead from h0 to h1"]),
        ("{hosts: [a, a], links: []}", ["two nodes have the name 'a'"]),
        ("{hosts: [a, B c], links: []}", ["'B c' is no name"]),
        ("{hosts: 2, links: [{between: [h0, h2], rate: 1gbit}]}", ["ends at 'h2'", "Known: h0, h1"]),
        ("{hosts: 2, links: [{between: [h0, h0], rate: 1gbit}]}", ["joins h0 to itself"]),
        ("{hosts: 2, links: [{between: h0, rate: 1gbit}]}", ["link 1: 'between' has to be two names"]),
        ("{hosts: 2, links: [{between: [h0, h1], rat: 1gbit}]}", ["link 1", "unknown key 'rat'", "mean 'rate'?"]),
        (
            "{hosts: 2, links: [{between: [h0, h1], rate: 100}]}",
            ["link 1: 'rate' has to be text, as in 100mbit, not 100"],
        ),
        (
            "{hosts: 2, links: [{between: [h0, h1], rate: 1gbit}, {between: [h1, h0], rate: 1gbit}]}",
            ["two links join h1 and h0"],
        ),
    ],
)
def test_files_that_are_refused(tmp_path: Path, content: str, messages: list[str]) -> None:
    path = tmp_path / "network.yaml"
    path.write_text(content)
    with pytest.raises(ConfigurationError) as refusal:
        load_network(str(path))
    for message in [*messages, str(path)]:
        assert message in str(refusal.value)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(ConfigurationError, match=r"no/such.yaml' cannot be read"):
        load_network("no/such.yaml")


def test_a_network_is_a_value() -> None:
    assert parse_network("star:3:1gbit") == parse_network("star:3:1gbit")
    assert len({parse_network("star:3:1gbit"), parse_network("star:3:1gbit")}) == 1
    with pytest.raises(ConfigurationError, match="no links lead from a to b"):
        Network("two islands", ("a", "b"), (), ())


def test_hosts_that_do_not_forward_are_gone_round() -> None:
    """Two GPUs without a link of their own meet over the switch, not through the GPU between them."""
    each = Rate.parse("1gbit")
    links = (
        Link("a", "b", each, each),
        Link("b", "c", each, each),
        *(Link(host, "near", each, each) for host in "ab"),
        Link("near", "far", each, each),
        Link("far", "c", each, each),
    )
    through, round_ = (Network("gpus", ("a", "b", "c"), ("near", "far"), links, forward) for forward in (True, False))
    assert through.route("a", "c") == ("a", "b", "c")
    assert round_.route("a", "c") == ("a", "near", "far", "c")
    assert round_.route("a", "b") == ("a", "b")
    with pytest.raises(ConfigurationError, match="no links lead from a to c"):
        Network("gpus", ("a", "b", "c"), (), links[:2], hosts_forward=False)


def test_delays_and_forwarding_are_read(tmp_path: Path) -> None:
    file = tmp_path / "gpus.yaml"
    file.write_text("{hosts: [a, b], hosts-forward: false, links: [{between: [a, b], rate: 1gbit, delay: 5.0e-6}]}")
    network = load_network(str(file))
    assert not network.hosts_forward
    assert network.links[0].delay == 5e-6


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("links: [{between: [a, b], rate: 1gbit, delay: 5us}]", "'delay' has to be seconds"),
        ("links: [{between: [a, b], rate: 1gbit, messages: 5}]", "'messages' has to be bytes and rates"),
        ("links: [{between: [a, b], rate: 1gbit, messages: {1024: 5us}}]", "5us"),
        ("links: [{between: [a, b], rate: 1gbit, messages: {0: 1mbit}}]", "in the order of their sizes, from 1 byte"),
        ("hosts-forward: maybe, links: [{between: [a, b], rate: 1gbit}]", "'hosts-forward' has to be true or false"),
    ],
)
def test_malformed_delays_and_forwarding_are_refused(entry: str, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "gpus.yaml"
    file.write_text(f"{{hosts: [a, b], {entry}}}")
    with pytest.raises(ConfigurationError, match=problem):
        load_network(str(file))
