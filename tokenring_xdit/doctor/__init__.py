"""Tells the owner of a machine in minutes whether attention over several ranks is right on it, and how fast.

:mod:`.cases` says what is done and :mod:`.findings` what it means, without doing anything; :mod:`.checkup` carries it
out, :mod:`.record` is what comes out of it and :mod:`.page` shows it. Ranks serve :mod:`.rank`, a process without
others :mod:`.solo`. ``docs/gpu.md`` is the guide.
"""
