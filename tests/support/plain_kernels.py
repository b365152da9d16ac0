"""plain_kernels - run a compiled kernel as the Python that it is written in."""

import sys
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pytest

Kernel = Callable[..., Any]

WAYS: Final = ("compiled", "plain")


def plain(kernel: Any) -> Kernel:
    """Return a kernel that runs uncompiled, with every kernel that it calls in its module."""
    module = sys.modules[kernel.py_func.__module__]

    def run(*arguments: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch, np.errstate(over="ignore"):
            for name, other in list(vars(module).items()):
                if hasattr(other, "py_func"):
                    patch.setattr(module, name, other.py_func)
            return kernel.py_func(*arguments)

    return run


def way(kernel: Any, name: str) -> Kernel:
    """Return a kernel compiled or plain."""
    chosen: Kernel = kernel if name == "compiled" else plain(kernel)
    return chosen
