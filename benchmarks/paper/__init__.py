"""The tables of the papers, on data at hand: ``python benchmarks/paper/run.py --table mnist``."""
