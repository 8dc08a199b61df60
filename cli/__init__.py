"""The command line of onnxmorph."""
