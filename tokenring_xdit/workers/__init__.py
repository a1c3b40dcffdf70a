"""Processes that serve as ranks: started, spoken to over pipes, watched, and surely ended.

:mod:`~tokenring_xdit.workers.birth` and :mod:`~tokenring_xdit.workers.mailbox` are the rank's side,
:mod:`~tokenring_xdit.workers.process`, :mod:`~tokenring_xdit.workers.watch` and :mod:`~tokenring_xdit.workers.crew` the
side of whoever started it; :mod:`~tokenring_xdit.workers.blame` says whose failure came first. None of them imports
torch, so that a rank listens from its first moment on.
"""
