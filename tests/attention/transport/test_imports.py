"""Who may know a transport by its name."""

from __future__ import annotations

from tests.lab.test_imports import PACKAGE, imported

TRANSPORTS = "tokenring_xdit.attention.transport"
NEUTRAL = {"base", "choice", "opening"}


def named(source: str) -> set[str]:
    """The transports that a source imports."""
    found = {name.removeprefix(f"{TRANSPORTS}.").partition(".")[0] for name in imported(source) if TRANSPORTS in name}
    return found - NEUTRAL


def test_no_other_module_imports_a_transport() -> None:
    files = {path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*.py")}
    outside = {name: path for name, path in files.items() if not name.startswith(("attention/transport/", "shipped/"))}
    assert len(outside) > 300
    assert {name: found for name, path in outside.items() if (found := named(path.read_text(encoding="utf-8")))} == {}


def test_an_import_of_a_transport_is_found() -> None:
    assert named(f"from {TRANSPORTS}.nccl import NcclTransport") == {"nccl"}
    assert named(f"from {TRANSPORTS} import MemoryNetwork") == {"MemoryNetwork"}
    assert not named(f"def later():\n    from {TRANSPORTS}.base import Transport\n    from {TRANSPORTS} import choice")
