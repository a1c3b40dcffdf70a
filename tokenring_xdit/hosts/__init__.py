"""One folder for each host library that TokenRing plugs into."""
