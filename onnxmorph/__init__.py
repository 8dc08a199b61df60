"""Grow trained ONNX models without changing what they compute."""

__version__ = "0.1.0"
