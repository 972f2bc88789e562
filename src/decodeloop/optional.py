"""What a plain installation lacks: imported when it is used, with one line that says what to install."""

from __future__ import annotations

from types import ModuleType


def load_onnxruntime() -> ModuleType:
    """The module onnxruntime, which a plain installation of decodeloop does not have.

    Raises
    ------
    ImportError
        If it is not installed: which extra to install.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            "onnxruntime is not installed: pip install 'decodeloop[cpu]', or 'decodeloop[cuda]' for an NVIDIA GPU."
        ) from error
    return onnxruntime


def load_gguf() -> ModuleType:
    """The module gguf, once accelerate is there too: transformers asks for both to read a GGUF file.

    Raises
    ------
    ImportError
        If one is not installed: which extra to install.
    """
    try:
        import accelerate  # noqa: F401
        import gguf
    except ImportError as error:
        raise ImportError(
            f"{error.name} is not installed, which reading a GGUF file takes: pip install 'decodeloop[gguf]'."
        ) from error
    return gguf


def load_pandas() -> ModuleType:
    """The module pandas, which makes tables.

    Raises
    ------
    ImportError
        If it is not installed: what to install.
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError("pandas is not installed, which a table takes: pip install pandas.") from error
    return pandas


def load_pyplot() -> ModuleType:
    """The module matplotlib.pyplot, which makes plots.

    Raises
    ------
    ImportError
        If matplotlib is not installed: what to install.
    """
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("matplotlib is not installed, which a plot takes: pip install matplotlib.") from error
    return pyplot
