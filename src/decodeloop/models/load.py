"""Load a decoder and its tokenizer: the bundled one, a local directory, or a hub id."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging

from decodeloop.models.hub import download
from decodeloop.models.shapes import SHAPES, published_shape

BUNDLED = Path(__file__).parents[1] / "bundled"


@dataclass(frozen=True)
class LoadedModel:
    """A model, ready to run, and where it came from.

    Attributes
    ----------
    model : transformers PreTrainedModel
        In evaluation mode, on the device that was asked for.
    tokenizer : transformers tokenizer or None
        None where a local directory holds none.
    name : str
        As it was asked for.
    weights : str
        ``"trained"`` or ``"random"``.
    source : str
        ``"bundled"``, ``"local"`` or ``"hub"``.
    """

    model: PreTrainedModel
    tokenizer: Any
    name: str
    weights: str
    source: str


def unit_test_going() -> bool:
    """Whether the environment asks for the fast path: ``UNITTEST_GOING=1``."""
    return os.environ.get("UNITTEST_GOING", "0") == "1"


def load(
    name: str | os.PathLike[str] = "bundled",
    *,
    device: torch.device | str = "auto",
    dtype: torch.dtype | str = "auto",
    random_weights: bool = False,
) -> LoadedModel:
    """Load a decoder and its tokenizer.

    Parameters
    ----------
    name : str or path
        ``"bundled"``, a local directory, or a hub id such as ``"microsoft/phi-1_5"``.
    device : str or torch.device
        ``"auto"`` is CUDA where there is a GPU, else the CPU.
    dtype : str or torch.dtype
        ``"auto"`` is float32 on a CPU and the checkpoint's own type on a GPU.
    random_weights : bool
        Build the model's shape with random weights (always the same ones) instead of loading its weights. For the
        shapes in ``decodeloop.models.shapes`` this needs no network; the tokenizer is then the bundled one, unless the
        model's own is in the local cache.

    Returns
    -------
    LoadedModel

    Raises
    ------
    ValueError
        If ``name``, ``device`` or ``dtype`` is none of the above, or CUDA is asked for and there is no GPU.
    FileNotFoundError
        If a directory, its ``config.json`` or its ``*.safetensors`` does not exist.
    OSError
        If the hub does not know the model or cannot be reached.
    """
    device = pick_device(device)
    name = os.fspath(name)
    path = Path(name).expanduser()
    if name == "bundled":
        source, folder = "bundled", BUNDLED
    elif path.is_dir():
        source, folder = "local", path
    elif path.is_absolute() or name.startswith((".", "~")) or "\\" in name or path.exists():
        raise FileNotFoundError(f"{name!r} is not a directory: expected a folder with config.json and *.safetensors.")
    elif random_weights and (shape := published_shape(name)):
        return _random(*shape, _cached_tokenizer(name), name, "hub", device, dtype)
    else:
        source, folder = "hub", _fetch(name, random_weights)
    _require(folder, ["config.json"], name, "a model's configuration")
    tokenizer = _tokenizer(folder)
    if random_weights:
        config = AutoConfig.from_pretrained(folder)
        return _random(config, _generation_config(folder, config), tokenizer, name, source, device, dtype)
    _require(folder, ["*.safetensors"], name, "its weights; only safetensors are read, convert other formats first")
    with _progress(source != "bundled" and sys.stderr.isatty()):
        model: Any = AutoModelForCausalLM.from_pretrained(  # its .to is annotated as a function, without the self
            folder, dtype=_pick_dtype(dtype, device), use_safetensors=True, local_files_only=True
        )
    return LoadedModel(model.to(device).eval(), tokenizer, name, "trained", source)


def pick_device(device: torch.device | str) -> torch.device:
    """``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` to a device that is really there.

    Raises
    ------
    ValueError
        If the name is unknown, or CUDA is asked for and torch sees no such GPU.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return torch.device("cuda" if gpus else "cpu")
    try:
        picked = torch.device(device)
    except RuntimeError:
        raise ValueError(f'device={device!r}: expected "auto", "cpu" or "cuda".') from None
    if picked.type == "cuda" and (picked.index or 0) >= gpus:
        raise ValueError(
            f'device={str(device)!r}: torch {torch.__version__} sees {gpus} GPUs. Use device="auto" or "cpu", or '
            "install a CUDA build of torch."
        )
    return picked


def get_weight_type(model: torch.nn.Module) -> torch.dtype:
    """The dtype that most of a model's weights have, counted by elements.

    Raises
    ------
    ValueError
        If the model has no parameters.
    """
    counts: Counter[torch.dtype] = Counter()
    for parameter in model.parameters():
        counts[parameter.dtype] += parameter.numel()
    if not counts:
        raise ValueError(f"{type(model).__name__} has no parameters, so its weights have no type.")
    return counts.most_common(1)[0][0]


def _pick_dtype(dtype: torch.dtype | str, device: torch.device, own: Any = "auto") -> torch.dtype | str:
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else own
    picked = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(picked, torch.dtype) or not picked.is_floating_point:
        raise ValueError(f'dtype={dtype!r}: expected "auto", or a floating-point type such as "float16".')
    return picked


@contextmanager
def _progress(shown: bool) -> Iterator[None]:
    """transformers' progress bar, only where somebody waits and watches: in a log, each of its frames is a line."""
    before = logging.is_progress_bar_enabled()
    if not shown:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if before:
            logging.enable_progress_bar()


def _random(
    config: PreTrainedConfig,
    generation: GenerationConfig,
    tokenizer: Any,
    name: str,
    source: str,
    device: torch.device,
    dtype: torch.dtype | str,
) -> LoadedModel:
    own = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus), torch.device(device):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=_pick_dtype(dtype, device, own))
    model.generation_config = generation
    return LoadedModel(model.eval(), tokenizer, name, "random", source)


def _fetch(name: str, random_weights: bool) -> Path:
    try:
        return download(name, weights=not random_weights)
    except OSError:
        if random_weights:
            raise ValueError(
                f"random_weights=True: the shape of {name!r} is not known here and the Hugging Face hub does not give "
                f"it. Known shapes: {', '.join(sorted(SHAPES))}."
            ) from None
        raise


def _require(folder: Path, patterns: list[str], name: str, what: str) -> None:
    for pattern in patterns:
        if not any(folder.glob(pattern)):
            raise FileNotFoundError(f"{name!r} has no {pattern} ({what}). The folder is {folder}.")


def _tokenizer(folder: Path) -> Any:
    known = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt")
    if not any((folder / file).exists() for file in known):
        return None
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _cached_tokenizer(name: str) -> Any:
    try:
        return AutoTokenizer.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError):
        return AutoTokenizer.from_pretrained(BUNDLED, local_files_only=True)


def _generation_config(folder: Path, config: Any) -> GenerationConfig:
    if (folder / "generation_config.json").exists():
        return GenerationConfig.from_pretrained(folder)
    return GenerationConfig.from_model_config(config)
