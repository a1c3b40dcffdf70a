"""What each rank of an engine does; see :mod:`tokenring_xdit.workers.birth`."""

from __future__ import annotations

import time
import traceback

from tokenring_xdit.pipelines.messages import Failed, Phase, Ready
from tokenring_xdit.pipelines.serving import Server
from tokenring_xdit.workers.mailbox import Mailbox

__all__ = ["main"]


def main(mailbox: Mailbox) -> None:
    """Load what the first message says, then serve requests until the engine is gone."""
    setup = mailbox.next()
    try:
        server = Server(setup, mailbox)
    except Exception as error:
        traceback.print_exc()
        kind = type(error).__name__
        mailbox.answer(Failed(number=0, phase=Phase.LOADING, kind=kind, message=str(error), time=time.time()))
        mailbox.next()
        return
    mailbox.answer(Ready())
    while True:
        mailbox.answer(server.serve(mailbox.next()))
