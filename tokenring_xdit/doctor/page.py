"""A checkup as one HTML file: no script, no network, no other file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from tokenring_xdit.bench.records import Record
from tokenring_xdit.doctor.machines import MachineFacts
from tokenring_xdit.doctor.record import Checkup

__all__ = ["page"]

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #888; --fine: #2a7d46; --note: #946200; --wrong: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --fine: #5fc483; --note: #e0b04a; --wrong: #ff8a80; } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
p.about { color: var(--soft); margin-top: 0; }
ul.findings { list-style: none; padding: 0; }
ul.findings li { margin: .4rem 0; padding-left: 4.5rem; text-indent: -4.5rem; }
.grade { display: inline-block; font-weight: 600; text-indent: 0; width: 4.5rem; }
.fine { color: var(--fine); } .note { color: var(--note); } .wrong { color: var(--wrong); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .8rem .25rem 0; text-align: left; vertical-align: top; }
td.number, th.number { text-align: right; }
.bar { background: #4a78c8; display: inline-block; height: .7rem; min-width: 1px; }
pre { border: 1px solid var(--line); overflow-x: auto; padding: .6rem; }
"""

_GIB = 1 << 30


class _Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def page(checkup: Checkup, topology_line: str | None, reports: Mapping[str, str]) -> str:
    """The report.

    Args:
        checkup: What was found.
        topology_line: What to set so that ``auto`` plans with the topology; ``None`` where there is none.
        reports: Names of the sweeps' own reports, and where they lie beside this file.
    """
    hosts = dict.fromkeys(node.host for node in checkup.nodes) or (checkup.machine and [checkup.machine.host])
    host = ", ".join(hosts or ["a machine"])
    nothing = "nothing is wrong" + (", as far as it went" if checkup.cut_short else "")
    verdict = "something is wrong" if checkup.wrong else nothing
    about = (
        f"{checkup.started}, {checkup.seconds:.0f} s, tokenring-xdit {checkup.package}, {checkup.ranks} ranks over "
        f"{checkup.backend}: {checkup.command}"
    )
    body = [
        f"<h1>Checkup of {escape(host)}: {verdict}</h1><p class=about>{escape(about)}</p>",
        _findings(checkup),
        *(_machine(checkup.machine) if checkup.machine is not None else ()),
        _section("Nodes", "", _nodes(checkup)),
        _section("Exactness", "Largest error of each schedule's calls against softmax in fp64.", _exactness(checkup)),
        _section("Messages", _about_messages(checkup), _messages(checkup)),
        _topology(checkup, topology_line),
        _section("Kernels", "One device, a full mask; the median.", _kernels(checkup)),
        _section(
            "Calls of few tokens",
            "What a call costs where there is next to nothing to compute. Host: until the call returns.",
            _launches(checkup),
        ),
        _section("Strategies", "Medians; shorter bars are faster.", _strategies(checkup)),
        "".join(f'<p>Plots: <a href="{escape(path)}">{escape(name)}</a></p>' for name, path in reports.items()),
        _section("Parts", "", _parts(checkup)),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>Checkup of {escape(host)}</title><style>{_STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def _findings(checkup: Checkup) -> str:
    rows = (
        f"<li><span class='grade {f.grade.value}'>{f.grade.value}</span>{escape(f.said)} "
        f"{f'<strong>{escape(f.advice)}</strong>' if f.advice else ''}</li>"
        for f in checkup.findings
    )
    return f"<ul class=findings>{''.join(rows)}</ul>"


def _machine(machine: MachineFacts) -> Iterable[str]:
    memory = "" if machine.memory_bytes is None else f", {machine.memory_bytes / _GIB:.0f} GiB of memory"
    rows = [
        ("system", machine.platform),
        ("processor", f"{machine.cpu}, {machine.cores} cores{memory}"),
        ("Python", machine.python),
        *((name, version or "not installed") for name, version in machine.versions.items()),
        ("CUDA of torch", machine.cuda or "none"),
        ("NCCL", machine.nccl or "none"),
        ("driver", machine.driver or "none"),
    ]
    yield _section("Machine", "", _table((), rows))
    if machine.gpus:
        peers = {gpu: sorted(b for a, b in machine.peers if a == gpu) for gpu in range(len(machine.gpus))}
        lines = [
            (
                str(index),
                gpu.name,
                f"{gpu.memory_bytes / _GIB:.0f} GiB",
                ".".join(map(str, gpu.capability)),
                ", ".join(map(str, peers[index])) or "none",
            )
            for index, gpu in enumerate(machine.gpus)
        ]
        yield _section("GPUs", "", _table(("", "name", "memory", "capability", "reaches the memory of"), lines))


def _nodes(checkup: Checkup) -> str:
    rows = [
        (str(node.node), node.host, ", ".join(map(str, node.ranks)), node.device, node.torch) for node in checkup.nodes
    ]
    return _table(("node", "host", "ranks", "on", "torch"), rows) if rows else ""


def _exactness(checkup: Checkup) -> str:
    rows = []
    for (schedule, mask, dtype), results in checkup.exactness_by_schedule.items():
        bad = [result for result in results if not result.exact]
        errors = [result.error for result in results if result.error is not None]
        largest = f"{max(errors):.1e}" if errors else "-"
        said = "; ".join(dict.fromkeys(result.said for result in bad if result.said))
        verdict = _Html(f"<span class={'wrong' if bad else 'fine'}>{'wrong' if bad else 'exact'}</span>")
        problem = "; ".join(result.problem for result in bad) + (f": {said}" if said else "")
        rows.append((schedule, mask, dtype, str(len(results)), largest, f"{results[0].limit:g}", verdict, problem))
    table = _table(("schedule", "mask", "dtype", "calls", "largest error", "limit", "verdict", ""), rows, {3, 4, 5})
    if not rows or any(not result.exact for result in checkup.exactness):
        return table
    said = f"All {len(checkup.exactness)} calls of {len(rows)} kinds are exact"
    return f"<details><summary>{said}</summary>{table}</details>"


def _about_messages(checkup: Checkup) -> str:
    return (
        "" if checkup.latency is None else f"Rank 0 to rank 1. A few bytes take {checkup.latency * 1e6:.1f} us one way."
    )


def _messages(checkup: Checkup) -> str:
    most = max((m.rate for m in checkup.messages), default=1.0)
    rows = [
        (_size(m.size), f"{m.rate / 1e9:.3g}", f"{m.both_ways / 1e9:.3g}", _bar(m.rate / most))
        for m in checkup.messages
    ]
    return _table(("message", "GB/s one way", "GB/s each way, both at once", ""), rows, {0, 1, 2})


def _topology(checkup: Checkup, line: str | None) -> str:
    if line is None:
        return ""
    said = f"topology.yaml: {checkup.topology_said}. Have schedule auto plan with it:"
    return f"<h2>Topology</h2><p>{escape(said)}</p><pre>{escape(line)}</pre>"


def _kernels(checkup: Checkup) -> str:
    rows = []
    for t in checkup.kernels:
        if t.seconds is None or t.flops is None:
            rows.append((t.kernel, t.dtype, t.problem, "-", "-", "-", t.said))
        else:
            error = "-" if t.error is None else f"{t.error:.1e}"
            said = "" if t.exact else f"wrong {t.said}"
            rows.append((t.kernel, t.dtype, t.problem, f"{t.seconds * 1e3:.3f}", f"{t.flops / 1e12:.3g}", error, said))
    return _table(("kernel", "dtype", "problem", "ms", "TFLOP/s", "error", ""), rows, {3, 4, 5})


def _launches(checkup: Checkup) -> str:
    rows = [
        (
            t.schedule,
            "-" if t.host_seconds is None else f"{t.host_seconds * 1e3:.3f}",
            "-" if t.seconds is None else f"{t.seconds * 1e3:.3f}",
            t.said,
        )
        for t in checkup.launches
    ]
    return _table(("schedule", "ms host", "ms whole", ""), rows, {1, 2})


def _strategies(checkup: Checkup) -> str:
    problems: dict[str, list[Record]] = {}
    for record in checkup.strategies:
        problems.setdefault(checkup.title(record), []).append(record)
    parts = []
    for problem, own in problems.items():
        timed = {id(record): record.seconds.median for record in own if record.seconds is not None}
        most = max(timed.values(), default=1.0)
        own.sort(key=lambda record: timed.get(id(record), float("inf")))
        rows = [
            (
                record.strategy,
                f"{timed[id(record)] * 1e3:.3g}",
                f"{record.max_error:.1e}",
                _bar(timed[id(record)] / most),
            )
            if id(record) in timed
            else (record.strategy, "-", "-", f"{record.status.value}: {record.error}")
            for record in own
        ]
        parts.append(f"<h3>{escape(problem)}</h3>{_table(('strategy', 'ms', 'error', ''), rows, {1, 2})}")
    return "".join(parts)


def _parts(checkup: Checkup) -> str:
    rows = [(part.name, part.state.value, f"{part.seconds:.1f}", part.said) for part in checkup.parts]
    return _table(("part", "", "s", ""), rows, {2})


def _section(title: str, note: str, content: str) -> str:
    return f"<h2>{escape(title)}</h2>{f'<p>{escape(note)}</p>' if note else ''}{content}" if content else ""


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    """A table, or nothing where it has no row."""
    if not rows:
        return ""
    right = set(numbers)

    def cells(kind: str, texts: Sequence[str]) -> str:
        return "".join(
            f"<{kind}{' class=number' if index in right else ''}>{_safe(text)}</{kind}>"
            for index, text in enumerate(texts)
        )

    head = f"<thead><tr>{cells('th', heads)}</tr></thead>" if heads else ""
    lines = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<div class=wide><table>{head}<tbody>{lines}</tbody></table></div>"


def _safe(text: str) -> str:
    return text if isinstance(text, _Html) else escape(text)


def _bar(share: float) -> _Html:
    return _Html(f"<span class=bar style='width:{12 * share:.2f}rem'></span>")


def _size(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"
