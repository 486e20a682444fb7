"""Compiling the steps of cells: with a C++ compiler, each half of an `activate` becomes one loop.

The compiler is torch's inductor, in this process and on one core; its results are cached on disk, so that the next run
with the same cell and sizes starts within a second.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Sequence

from torch import Tensor, fx

from textgen.activation import Half
from textgen.errors import CompilerError

PARALLEL = 32_768
"""Elements from which several threads speed up a half (measured with 16 x 1024 and 32 x 1024)."""


def compiler() -> str | None:
    """The C++ compiler that torch would use, or None."""
    return shutil.which(os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++"))


def compiler_version() -> str:
    """The C++ compiler's name and version, empty without one."""
    found = compiler()
    if found is None:
        return ""
    asked = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
    return asked.stdout.partition("\n")[0].strip()


def compiled(graph: fx.GraphModule, examples: Sequence[Tensor]) -> Half:
    """A graph compiled for inputs like these and the current number of threads.

    Raises CompilerError if it cannot be compiled here.
    """
    if compiler() is None:
        raise CompilerError("there is no C++ compiler on this machine.", hint="install g++, or use --no-compile.")
    import torch._inductor.config
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._inductor.decomposition import select_decomp_table
    from torch.fx.experimental.proxy_tensor import make_fx

    large = max(tensor.numel() for tensor in examples) >= PARALLEL
    settings = {
        "compile_threads": 1,
        "fallback_random": True,
        "cpp.threads": torch.get_num_threads() if large else 1,
    }
    with warnings.catch_warnings(), torch.no_grad(), torch._inductor.config.patch(settings):
        warnings.simplefilter("ignore")
        try:
            simple = make_fx(graph, decomposition_table=select_decomp_table(), tracing_mode="fake")(*examples)
            inputs = [node.meta["val"] for node in simple.graph.find_nodes(op="placeholder")]
            code: Half = compile_fx_inner(simple, inputs, is_inference=True)
            return code
        except Exception as error:
            reason = str(error).strip().split("\n")[0]
            raise CompilerError(
                f"a cell could not be compiled here ({reason}).", hint="--no-compile trains without compiling."
            ) from error
