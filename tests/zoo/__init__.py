"""Small hard models written with onnx.helper alone: what exporters, and people, really put into files."""
