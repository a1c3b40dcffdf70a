"""Processes that serve as ranks: started, asked, watched, and surely ended.

* :mod:`~tokenring_xdit.workers.loop` is what every rank does, :mod:`~tokenring_xdit.workers.rank` the process that does
  it, :mod:`~tokenring_xdit.workers.pipes` its way to whoever started it.
* :mod:`~tokenring_xdit.workers.starting` is the seam between those who ask ranks and those who start them, on this
  machine or, by :mod:`~tokenring_xdit.workers.on_ray`, on the nodes of a Ray cluster.
* :mod:`~tokenring_xdit.workers.worker` and :mod:`~tokenring_xdit.workers.pool` are the side of whoever started it;
  :mod:`~tokenring_xdit.workers.torchrun` the same for ranks that ``torchrun`` started, over its store.
* :mod:`~tokenring_xdit.workers.state` decides, without processes, how a request ends;
  :mod:`~tokenring_xdit.workers.blame` whose failure came first.

None but ``torchrun``, ``world`` and ``launch`` imports torch, so that a rank listens from its first moment on.
"""
