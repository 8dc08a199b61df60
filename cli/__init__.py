"""The command line of onnxmorph: parses, calls the library, prints. It knows nothing of ONNX.

The folder installs as the package ``onnxmorph_cli``. Its modules import each other relatively, so that type checkers
and editors, which see the folder's own name, resolve them too.
"""
