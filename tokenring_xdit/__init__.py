"""TokenRing sequence-parallel attention for diffusion transformers, as a plugin for xDiT (xfuser).

Importing this package imports neither torch nor xfuser; :mod:`tokenring_xdit.attention` needs torch,
:mod:`tokenring_xdit.integrations.xfuser` needs xfuser.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
