"""An HTTP service on an engine: OpenAI's protocol for images, videos and chats, a bounded queue, health, metrics.

* :mod:`~tokenring_xdit.serve.engine_owner` is the one thread that owns the engine; it serves jobs one after the other
  and watches the ranks while there are none. :mod:`~tokenring_xdit.serve.queue` is where they wait,
  :mod:`~tokenring_xdit.serve.watch` looks at ranks, :mod:`~tokenring_xdit.serve.forecast` and
  :mod:`~tokenring_xdit.serve.memory` learn what requests take.
* :mod:`~tokenring_xdit.serve.picture_runner`, :mod:`~tokenring_xdit.serve.video_runner` and
  :mod:`~tokenring_xdit.serve.chat_runner` are what the engine does for a job;
  :mod:`~tokenring_xdit.serve.video_store` keeps videos.
* :mod:`~tokenring_xdit.serve.parsing` makes orders of requests, and refuses before anything waits;
  :mod:`~tokenring_xdit.serve.text_parsing` does so for language models.
* :mod:`~tokenring_xdit.serve.app` is HTTP; only it and what it imports need the extra ``serve``.
"""
