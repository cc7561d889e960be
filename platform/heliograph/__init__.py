"""heliograph: from interaction logs and item texts to a served generative recommender."""

__version__ = "0.1.0"
