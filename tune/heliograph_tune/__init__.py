"""Searches over the settings of heliograph on Ray Tune."""
