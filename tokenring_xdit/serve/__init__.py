"""An HTTP service on an engine: OpenAI's protocol for images, videos and chats, a bounded line, health, metrics.

* :mod:`~tokenring_xdit.serve.keeper` is the one thread that owns the engine; it serves jobs one after the other and
  watches the ranks while there are none. :mod:`~tokenring_xdit.serve.line` is where they wait,
  :mod:`~tokenring_xdit.serve.watch` looks at ranks, :mod:`~tokenring_xdit.serve.forecast` learns what requests take.
* :mod:`~tokenring_xdit.serve.drawing`, :mod:`~tokenring_xdit.serve.filming` and :mod:`~tokenring_xdit.serve.talking`
  are what the engine does for a job; :mod:`~tokenring_xdit.serve.shelf` keeps videos.
* :mod:`~tokenring_xdit.serve.desk` makes orders of requests, and refuses before anything waits;
  :mod:`~tokenring_xdit.serve.text_desk` does so for language models.
* :mod:`~tokenring_xdit.serve.app` is HTTP; only it and what it imports need the extra ``serve``.
"""
