"""What the self-test decides; that it measures rightly is tested on real networks in ``test_emulated.py``."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tokenring_xdit.errors import NetworkError
from tokenring_xdit.lab.network import LinkFigure, LinkReport, Network, NetworkReport, parse_network, refuse_slow
from tokenring_xdit.lab.network.selftest import transfers_together


def report(network: Network, *, one_way: float = 0.95, both: float = 0.95, together: float = 0.95) -> NetworkReport:
    """A report with the given shares; ``both`` is that of the way back on the last link."""

    def figure(source: str, destination: str, share: float) -> LinkFigure:
        stated = network.slowest_rate(source, destination)
        return LinkFigure(source, destination, stated, share * stated.bits_per_second)

    links = tuple(
        LinkReport(
            link,
            figure(*link.ends, one_way if link is network.links[0] else 0.95),
            figure(*link.ends, 0.95),
            figure(*link.ends[::-1], both if link is network.links[-1] else 0.95),
        )
        for link in network.links
    )
    return NetworkReport(network, links, (figure(network.hosts[0], network.hosts[-1], together),))


@pytest.mark.parametrize("share", [0.9, 0.95, 1.0])
def test_a_network_that_carries_what_it_states_is_taken(share: float) -> None:
    good = report(parse_network("star:4:100mbit"), one_way=share, both=share, together=share)
    refuse_slow(good)
    assert good.to_dict()["good"] is True


@pytest.mark.parametrize(
    ("shares", "messages"),
    [
        ({"one_way": 0.5}, ["link from h0 to switch", "50 of 100 Mbit/s (50%)", "one way", "at least 90%"]),
        ({"both": 0.89}, ["link from switch to h3", "89 of 100 Mbit/s (89%)", "both directions of it loaded"]),
        ({"both": 0.0}, ["link from switch to h3", "carried 0 of 100 Mbit/s"]),
        ({"together": 0.7}, ["the way over switch from h0 to h3", "70 of 100", "whole network loaded"]),
        ({"one_way": 0.8, "both": 0.6}, ["switch to h3", "60 of 100", "2 transfers are off"]),
        ({"one_way": 1.9}, ["link from h0 to switch", "190 of 100 Mbit/s", "limits are not in force"]),
    ],
)
def test_a_network_that_does_not_is_refused(shares: dict[str, float], messages: list[str]) -> None:
    bad = report(parse_network("star:4:100mbit"), **shares)
    with pytest.raises(NetworkError) as refusal:
        refuse_slow(bad)
    for message in ["'star:4:100mbit'", *messages]:
        assert message in str(refusal.value)
    assert bad.to_dict()["good"] is False


@pytest.mark.parametrize(
    "form", ["mesh:5:1gbit", "star:6:1gbit", "ring:5:1gbit", "ring:2:1gbit", "two-level:3x3:1gbit:1gbit"]
)
def test_transfers_together_share_no_direction_of_a_link(form: str) -> None:
    network = parse_network(form)
    steps = [step for t in transfers_together(network) for step in pairwise(network.route(*t))]
    assert len(steps) == len(set(steps))
    if not form.startswith("two-level"):
        assert set(steps) == {ends for link in network.links for ends in (link.ends, link.ends[::-1])}
