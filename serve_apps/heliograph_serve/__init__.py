"""The online graph of heliograph on Ray Serve."""

from heliograph.cluster import choose_fast_serve

choose_fast_serve()  # Serve reads its switches when it is imported, which happens below here
