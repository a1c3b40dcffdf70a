"""Networks as YAML files: read, and written.

``docs/topologies.md`` describes the file. What was measured, where figures come from and what else there is to say of
a network stands beside it, in keys that reading checks and leaves alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tokenring_xdit.errors import ConfigurationError, nearest
from tokenring_xdit.messages import listed, named, one_line, shown
from tokenring_xdit.topology.links import Counts, Link, Rate
from tokenring_xdit.topology.network import MOST_NODES, Network, host_names, parse_network
from tokenring_xdit.yaml_files import read_yaml

__all__ = ["load_network", "network_from_mapping", "network_to_mapping", "network_to_yaml"]


_TEXTS = ("notes", "sources")
_REQUIRED = {"hosts", "links"}
_OPTIONAL = {"switches", "hosts-forward", "counts", "measured", "sources", "notes"}
_ORDER = ("notes", "sources", "hosts", "switches", "hosts-forward", "counts", "links", "measured")  # in what is written


def load_network(text: str) -> Network:
    """A network from what a user wrote: a short form, or the path of a YAML file (``.yaml``, ``.yml``).

    Raises:
        ConfigurationError: It is neither, or describes something that cannot work.
    """
    path = Path(text)
    if path.suffix.lower() not in {".yaml", ".yml"}:
        return parse_network(text)
    what = f"network file {shown(text)}"
    content, mistakes = read_yaml(path, what, values=1_000_000, characters=20_000_000)
    if mistakes:
        raise ConfigurationError(listed(f"{what} has keys twice:", mistakes))
    return network_from_mapping(content, name=text)


def network_from_mapping(content: Any, *, name: str) -> Network:
    """A network from the content of a YAML file.

    ``hosts`` is a number or a list of names, ``switches`` a list of names, ``links`` a list of
    ``{between: [a, b], rate: RATE, back: RATE, delay: SECONDS, messages: {BYTES: RATE}}``; ``back`` is the rate from b
    to a, that of ``rate`` where left out, ``messages`` what a message alone reaches, by its size.
    ``hosts-forward: false`` keeps hosts from passing on what is for others. ``counts`` is a value of :class:`Counts`.
    ``measured`` (``false``, or what was measured), ``sources`` and ``notes`` (lists of texts) may
    stand beside them.

    Raises:
        ConfigurationError: Something is missing, unknown, or cannot work.
    """
    _check_keys(content, _REQUIRED, _OPTIONAL, f"network file {shown(name)}")
    hosts = content["hosts"]
    if isinstance(hosts, int) and not isinstance(hosts, bool):
        hosts = host_names(min(hosts, MOST_NODES + 1))
    links = content["links"]
    if not isinstance(links, list):
        raise ConfigurationError(f"network file {shown(name)}: 'links' has to be a list, not {shown(links)}")
    _check_remarks(content, name)
    return Network(
        name,
        _names(hosts, "hosts", name),
        _names(content.get("switches", []), "switches", name),
        tuple(_link(entry, f"network file {shown(name)}, link {index}") for index, entry in enumerate(links, 1)),
        _flag(content.get("hosts-forward", True), "hosts-forward", name),
        _counts(content.get("counts", Counts.FRAMES.value), name),
        *_circumstances(content.get("measured", False)),
    )


def network_to_mapping(network: Network) -> dict[str, Any]:
    """What :func:`network_from_mapping` reads as the same network, with what has its default left out."""
    plain = network.hosts == host_names(len(network.hosts))
    content: dict[str, Any] = {"hosts": len(network.hosts) if plain else list(network.hosts)}
    if network.switches:
        content["switches"] = list(network.switches)
    if not network.hosts_forward:
        content["hosts-forward"] = False
    if network.counts is not Counts.FRAMES:
        content["counts"] = network.counts.value
    content["links"] = [_entry(link) for link in network.links]
    if network.devices or network.emulation:
        content["measured"] = {"devices": list(network.devices), "network": network.emulation or None}
    return content


def network_to_yaml(network: Network, remarks: Mapping[str, Any] | None = None) -> str:
    """The text of a file that :func:`load_network` reads as the same network, a line for each link.

    Args:
        network: The network.
        remarks: Values of ``measured``, ``sources`` and ``notes``, where they are known.
    """
    content = {**network_to_mapping(network), **(remarks or {})}
    keys = sorted(content, key=_ORDER.index)
    return "".join(_lines(key, content[key]) for key in keys)


def _lines(key: str, value: Any, indent: str = "") -> str:
    """A key as YAML: mappings on lines of their own, and so are members of lists that are no plain values."""
    if isinstance(value, Mapping) and value:
        return f"{indent}{key}:\n" + "".join(_lines(inner, value[inner], indent + "  ") for inner in value)
    if isinstance(value, list) and (key in _TEXTS or any(isinstance(entry, (list, dict)) for entry in value)):
        return f"{indent}{key}:\n" + "".join(f"{indent}  - {_flow([entry])}\n" for entry in value)
    return f"{indent}{_flow({key: value})}\n"


def _flow(value: Any) -> str:
    """The members of a list or mapping on one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=float("inf"))
    return text.strip()[1:-1]


def _entry(link: Link) -> dict[str, Any]:
    entry: dict[str, Any] = {"between": list(link.ends), "rate": str(link.rate)}
    if link.back != link.rate:
        entry["back"] = str(link.back)
    if link.delay:
        entry["delay"] = link.delay
    if link.messages:
        entry["messages"] = {size: str(rate) for size, rate in link.messages}
    return entry


def _link(entry: Any, where: str) -> Link:
    _check_keys(entry, {"between", "rate"}, {"back", "delay", "messages"}, where)
    ends = entry["between"]
    if not isinstance(ends, list) or len(ends) != 2 or not all(isinstance(end, str) for end in ends):
        raise ConfigurationError(f"{where}: 'between' has to be two names, as in [h0, h1], not {shown(ends)}")
    for key in ("rate", "back"):
        if key in entry and not isinstance(entry[key], str):
            raise ConfigurationError(f"{where}: '{key}' has to be text, as in 100mbit, not {shown(entry[key])}")
    try:
        rate, back = (Rate.parse(text) for text in (entry["rate"], entry.get("back", entry["rate"])))
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from error
    delay = entry.get("delay", 0.0)
    if isinstance(delay, bool) or not isinstance(delay, (int, float)) or not 0 <= delay < 1:
        raise ConfigurationError(f"{where}: 'delay' has to be seconds, as in 0.000005, not {shown(delay)}")
    return Link(ends[0], ends[1], rate, back, float(delay), _messages(entry.get("messages", {}), where))


def _messages(value: Any, where: str) -> tuple[tuple[int, Rate], ...]:
    whole = isinstance(value, Mapping) and all(
        type(size) is int and isinstance(rate, str) for size, rate in value.items()
    )
    if not whole:
        raise ConfigurationError(
            f"{where}: 'messages' has to be bytes and rates, as in {{1048576: 100gbit}}, not {shown(value)}"
        )
    try:
        return tuple((size, Rate.parse(rate)) for size, rate in sorted(value.items()))
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from error


def _flag(value: Any, key: str, name: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(f"network file {shown(name)}: '{key}' has to be true or false, not {shown(value)}")
    return value


def _counts(value: Any, name: str) -> Counts:
    try:
        return Counts(value)
    except ValueError:
        known = [counts.value for counts in Counts]
        raise ConfigurationError(
            f"network file {shown(name)}: 'counts' says what rates count, and {shown(value)} is none of it. "
            f"{nearest(named(value), known)}"
        ) from None


def _check_remarks(content: Mapping[str, Any], name: str) -> None:
    measured = content.get("measured", False)
    if measured is not False and not isinstance(measured, Mapping):
        raise ConfigurationError(
            f"network file {shown(name)}: 'measured' has to be false or figures, not {shown(measured)}"
        )
    for key in _TEXTS:
        texts = content.get(key, [])
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ConfigurationError(
                f"network file {shown(name)}: '{key}' has to be a list of texts, not {shown(texts)}"
            )


def _circumstances(measured: Any) -> tuple[tuple[str, ...], str]:
    """On what devices a network was measured, and in which emulated one."""
    known = measured if isinstance(measured, Mapping) else {}
    devices = known.get("devices") or []
    names = tuple(one_line(str(device)) for device in devices[:MOST_NODES]) if isinstance(devices, list) else ()
    return names, one_line(str(known.get("network") or ""))


def _names(value: Any, what: str, name: str) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(entry, str) for entry in value):
        number = "a number or " if what == "hosts" else ""
        raise ConfigurationError(
            f"network file {shown(name)}: '{what}' has to be {number}a list of names, not {shown(value)}"
        )
    return tuple(value)


def _check_keys(value: Any, required: set[str], optional: set[str], where: str) -> None:
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{where} has to have the keys {', '.join(sorted(required))}, and is {shown(value)}")
    for key in value:
        if key not in required | optional:
            raise ConfigurationError(
                f"{where} has an unknown key '{named(key)}'. {nearest(named(key), required | optional)}"
            )
    missing = sorted(required - set(value))
    if missing:
        raise ConfigurationError(f"{where} lacks {' and '.join(missing)}")
