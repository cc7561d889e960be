"""Measures how long training takes until a validation NDCG@10, next to two other libraries.

Run it with `python benchmarks/training.py ml-100k` or `... beauty FOLDER`; what is compared,
and why that is fair, stands in benchmarks/training/README.md.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # every process that is started from here imports this file again
    sys.path.insert(0, str(Path(__file__).resolve().parent / "training"))  # a folder of this name
    from race import main

    main()
