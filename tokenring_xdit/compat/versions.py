"""Whether what is installed is what the package was made for, as its metadata says."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement
from packaging.version import Version

from tokenring_xdit.errors import ConfigurationError

__all__ = ["check_versions"]

_CHECKED = frozenset({"diffusers", "torch", "transformers", "xfuser"})


@cache
def check_versions(besides: frozenset[str] = frozenset()) -> None:
    """Look at the libraries that pipelines run on; nothing is imported.

    Args:
        besides: Names of those that are not needed for what is asked.

    Raises:
        ConfigurationError: One is missing, too old or too new.
    """
    try:
        needed = [Requirement(text) for text in requires("tokenring-xdit") or ()]
    except PackageNotFoundError:  # a checkout on PYTHONPATH
        return
    for requirement in needed:
        if requirement.name not in _CHECKED - besides or (
            requirement.marker and not requirement.marker.evaluate({"extra": ""})
        ):
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            found = "it is not installed"
        else:
            # Containers have what they call a pre-release: 2.8.0a0+5228986 is their 2.8.
            if requirement.specifier.contains(Version(installed).base_version, prereleases=True):
                continue
            found = f"{requirement.name} {installed} is installed"
        wanted = f"{requirement.name}{requirement.specifier}"
        raise ConfigurationError(f"tokenring-xdit needs {wanted}, and {found}: pip install '{wanted}'")
