"""Methods against golden vectors: inputs and outputs of the official implementations.

`python -m harness.golden FILE...` prints one JSON line per file and exits with 1 unless all of them agree. The methods'
own code runs on the inputs, behind hand-made views, and for end-to-end files inside the engine.
"""

from harness.golden.check import METHODS, check_file, method_of

__all__ = ["METHODS", "check_file", "method_of"]
