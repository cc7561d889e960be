"""Measures heliograph and what it stands on, in one run on one machine.

Run it with `python benchmarks/run.py [BUNDLE] [--seconds 3] [--turns 3] [--out FOLDER]`.
"""

if __name__ == "__main__":  # every process that is started from here imports this file again
    from suite import main

    main()
