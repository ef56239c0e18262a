"""Each claim of speed, measured beside a peer in one run: ``python -m bench.search``, ``python -m bench.sync``."""
