"""Searches over the settings of heliograph on Ray Tune.

Imports stay light: a worker that runs cheap trials need not wait for torch.
"""
