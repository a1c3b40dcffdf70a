"""TokenRing inside xDiT (xfuser 0.7): everything that touches xfuser is in this folder."""

from tokenring_xdit.integrations.xfuser.choice import TokenRingChoice, current_choice
from tokenring_xdit.integrations.xfuser.install import register

__all__ = ["TokenRingChoice", "current_choice", "register"]
