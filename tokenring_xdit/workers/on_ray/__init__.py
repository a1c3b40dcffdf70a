"""Ranks on the nodes of a Ray cluster: an actor a rank, all in one placement group.

* :mod:`~tokenring_xdit.workers.on_ray.actor` is on the rank's node: it starts the rank's process there, as
  :class:`~tokenring_xdit.workers.worker.Worker` does on one machine, and carries bytes to it and back;
* :mod:`~tokenring_xdit.workers.on_ray.rank` is the same rank from the side of whoever started it;
* :mod:`~tokenring_xdit.workers.on_ray.cluster` takes the placement group, and starts worlds in it, again and again;
* :mod:`~tokenring_xdit.workers.on_ray.seats` says which rank is where, and what it finds in its environment.

Ray places, starts and ends; messages to ranks, and the meaning of failures, are as on one machine.
"""
