"""An HTTP service on an engine: OpenAI's images protocol, a bounded line, health, metrics.

* :mod:`~tokenring_xdit.serve.keeper` is the one thread that owns the engine; it serves jobs one after the other and
  watches the ranks while there are none. :mod:`~tokenring_xdit.serve.line` is where they wait,
  :mod:`~tokenring_xdit.serve.watch` looks at ranks, :mod:`~tokenring_xdit.serve.forecast` learns what requests take.
* :mod:`~tokenring_xdit.serve.desk` makes orders of requests, and refuses before anything waits.
* :mod:`~tokenring_xdit.serve.app` is HTTP; only it and what it imports need the extra ``serve``.
"""
