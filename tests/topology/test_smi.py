"""What ``nvidia-smi topo -m`` prints as a network: against the presets of the same machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenring_xdit.cli import main
from tokenring_xdit.errors import ConfigurationError
from tokenring_xdit.topology import Network, load_topology

RECORDED = Path(__file__).parents[1] / "scripts" / "topologies"


def recorded(name: str) -> Network:
    return load_topology(str(RECORDED / f"{name}.txt"))


def rates(network: Network) -> dict[tuple[str, str], float]:
    """GB/s of the slowest link between every two hosts, one direction."""
    pairs = ((a, b) for a in network.hosts for b in network.hosts if a != b)
    return {pair: network.slowest_rate(*pair).bits_per_second / 8e9 for pair in pairs}


@pytest.mark.parametrize("name", ["hgx-h100", "dgx-a100", "4xa10"])
def test_it_is_the_preset_of_that_machine(name: str) -> None:
    read, preset = recorded(name), load_topology(name)
    assert read.hosts == preset.hosts
    assert rates(read) == rates(preset)
    assert {len(read.route(*pair)) for pair in rates(read)} == {3}  # over one switch, whatever it is called


def test_nvlinks_of_a_dgx_1_are_links_between_two_gpus() -> None:
    read, preset = recorded("dgx-1"), load_topology("dgx-1")
    between = [{frozenset(w.ends): w.rate for w in n.links if {*w.ends} <= {*n.hosts}} for n in (read, preset)]
    assert len(between[0]) == 16
    assert between[0] == between[1]
    assert all("sys0" in read.route(f"g{a}", f"g{b}") for a, b in [(0, 5), (1, 6), (2, 4), (3, 5)])


def test_what_has_no_nvlink_goes_over_pcie_and_shares_it() -> None:
    found = recorded("8xa6000-four-bridges")
    assert found.route("g0", "g1") == ("g0", "g1")
    assert found.route("g1", "g3") == ("g1", "node0", "g3")
    assert found.route("g1", "g6") == ("g1", "node0", "sys2", "node1", "g6")
    assert found.of_accelerators
    switches = recorded("4xpcie-two-sockets")
    assert switches.route("g2", "g3") == ("g2", "pix0", "g3")
    assert switches.route("g0", "g3") == ("g0", "pxb1", "sys2", "pix0", "g3")


def test_this_machine_s_gpus_are_in_the_order_of_its_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\n[ \"$*\" = 'topo -m' ] && cat '{RECORDED / 'dgx-1.txt'}'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert load_topology("nvidia-smi").hosts == recorded("dgx-1").hosts
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,0,1,2")
    assert load_topology("nvidia-smi").hosts == ("g3", "g0", "g1", "g2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "8")
    with pytest.raises(ConfigurationError, match="there is no GPU 8; this machine has 8"):
        load_topology("nvidia-smi")
    smi.write_text("#!/bin/sh\nexit 9\n")
    with pytest.raises(ConfigurationError, match=r"^topology nvidia-smi: exit status 9$"):
        load_topology("nvidia-smi")
    smi.write_text(
        "#!/bin/sh\necho; echo 'NVIDIA-SMI has failed because it could not talk.'; printf '\\377\\n'; exit 9\n"
    )
    with pytest.raises(ConfigurationError, match=r"exit status 9: NVIDIA-SMI has failed because it could not talk\.$"):
        load_topology("nvidia-smi")
    smi.write_text("#!/bin/sh\nprintf '\\377\\n'\n")
    with pytest.raises(ConfigurationError, match="this is no output of 'nvidia-smi topo -m'"):
        load_topology("nvidia-smi")
    monkeypatch.setattr("tokenring_xdit.topology.smi._SECONDS", 0.2)
    smi.write_text("#!/bin/sh\nexec sleep 60\n")
    with pytest.raises(ConfigurationError, match=r"it did not answer within 0\.2 s, as where a driver hangs"):
        load_topology("nvidia-smi")
    smi.chmod(0o644)
    with pytest.raises(
        ConfigurationError, match=r"topology nvidia-smi: (it cannot be run: Permission|there is no such)"
    ):
        load_topology("nvidia-smi")


def test_what_is_not_there_or_no_matrix_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"topology nvidia-smi: there is no such program"):
        load_topology("nvidia-smi")
    with pytest.raises(ConfigurationError, match=r"no\.txt cannot be read: No such file"):
        load_topology(str(tmp_path / "no.txt"))
    (tmp_path / "other.txt").write_text("a list of things to buy\n")
    with pytest.raises(ConfigurationError, match="no output of 'nvidia-smi topo -m'"):
        load_topology(str(tmp_path / "other.txt"))


def test_a_plan_takes_it(capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for topology in ("hgx-h100", str(RECORDED / "hgx-h100.txt")):
        numbers = ["--tokens", "8192", "--heads", "24", "--head-dim", "128", "--tflops", "600", "--ranks", "4"]
        assert main(["plan", "--topology", topology, *numbers]) == 0
        lines = capsys.readouterr().out.splitlines()
        said.append(lines[next(at for at, line in enumerate(lines) if line.lstrip().startswith("split")) :])
    assert said[0] == said[1]
