"""The parts of `benchmarks/fault_detection.py`: pairs of models, what is wrong with them, and who sees it."""
