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
