"""diffusers' own tests of pipelines, run alone and with each pipeline spread over ranks (``scripts/peer_suite.sh``)."""
