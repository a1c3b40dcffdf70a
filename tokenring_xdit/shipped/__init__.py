"""Configs and launch scripts of the repository, which the wheel has too: the two folders here are links to them."""

from __future__ import annotations

import re
from pathlib import Path

from tokenring_xdit.errors import ConfigurationError, nearest
from tokenring_xdit.messages import shown
from tokenring_xdit.outputs import write_whole

__all__ = ["CONFIGS", "SCRIPTS", "configs", "copy_config"]

CONFIGS = Path(__file__).parent / "configs"

SCRIPTS = Path(__file__).parent / "scripts"


def configs() -> dict[str, Path]:
    """The configs of runs, and of sweeps as ``sweeps/NAME``, by name."""
    found = sorted((*CONFIGS.glob("*.yaml"), *CONFIGS.glob("sweeps/*.yaml")), key=lambda path: (path.parent, path))
    return {path.relative_to(CONFIGS).with_suffix("").as_posix(): path for path in found}


def copy_config(name: str, folder: Path) -> list[Path]:
    """Copy a config, and those that it extends, which lie beside it.

    Args:
        name: Its name in :func:`configs`.
        folder: Where to, an existing folder.

    Returns:
        The copies.

    Raises:
        ConfigurationError: There is no such config or folder, or a file of that name is there.
        OutputError: A copy cannot be written.
    """
    known = configs()
    name = name.removesuffix(".yaml")
    if name not in known:
        raise ConfigurationError(f"there is no config {shown(name)}. {nearest(name, known)}")
    if not folder.is_dir():
        raise ConfigurationError(f"there is no folder {shown(str(folder))}: make it, or name another with --to")
    sources = [known[name]]
    while extended := re.search(r"^extends: *(\S+)", sources[-1].read_text(encoding="utf-8"), re.MULTILINE):
        sources.append(sources[-1].parent / extended[1])
    for target in (there := [folder / source.name for source in sources]):
        if target.exists():
            raise ConfigurationError(
                f"{shown(str(target))} is there: move it away, or copy into another folder with --to"
            )
    for source, target in zip(sources, there, strict=True):
        write_whole(target, source.read_bytes())
    return there
