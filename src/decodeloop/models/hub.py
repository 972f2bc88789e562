"""A hub id to a folder on this machine: asked for once, quickly, and with errors of one line."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

#: What a decoder needs. Weights as safetensors only: the other formats run code when they are read.
_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
_NOT_THESE = ["*/*", "consolidated*"]  # other formats' copies of the same weights


def download(name: str, *, weights: bool = True) -> Path:
    """The folder that holds a hub model, downloaded or from the local cache.

    Parameters
    ----------
    name : str
        A hub id, ``"organisation/model"``.
    weights : bool
        Also fetch the weights, not only the configuration and the tokenizer.

    Raises
    ------
    ValueError
        If ``name`` cannot be a hub id.
    OSError
        If the hub knows no such model, does not give it out, or cannot be reached while the cache lacks the model.
    """
    files = [pattern for pattern in _FILES if weights or "safetensors" not in pattern]
    reachable, why = _reachable(name)
    try:
        return Path(
            snapshot_download(
                name, allow_patterns=files, ignore_patterns=_NOT_THESE, local_files_only=not reachable, etag_timeout=10
            )
        )
    except OSError as error:
        raise OSError(
            f"cannot load {name!r}: {why or f'the download failed ({_first_line(error)})'}, and it is not in the local "
            "cache. Pass a local directory, or random_weights=True for the model's published shape with random weights."
        ) from None


def _reachable(name: str) -> tuple[bool, str]:
    """Whether the hub answers for this model, else why not. One short request: the download itself would retry."""
    try:
        HfApi().model_info(name, timeout=10)
        return True, ""
    except HFValidationError:
        raise ValueError(
            f'name={name!r}: expected "bundled", an existing directory, or a hub id such as "microsoft/phi-1_5".'
        ) from None
    except GatedRepoError:
        raise OSError(
            f"cannot load {name!r}: its owner asks you to accept terms first; then `hf auth login`."
        ) from None
    except RepositoryNotFoundError:
        raise OSError(
            f"cannot load {name!r}: the Hugging Face hub has no such model (or it is private: `hf auth login`). "
            'Check the name; "bundled" needs no hub, and random_weights=True builds the published shape of a known one.'
        ) from None
    except Exception as error:  # whichever transport error this version of the client raises
        return False, f"the Hugging Face hub cannot be reached ({_first_line(error)})"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]
