"""A checkpoint's files: whole, inside their folder, and every tensor of the model among them."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import PreTrainedModel

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
#: What a decoder needs beside its weights.
SETTINGS = ("*.json", "*.model", "*.txt", "*.jinja")
#: Those of them that hold one JSON object.
_OBJECTS = {"config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json", "vocab.json", INDEX}
_OBJECTS |= {"special_tokens_map.json", "added_tokens.json"}
#: What to do where weights and configuration do not fit.
GET_BOTH = "The weights are another model's or not whole, or config.json is wrong: get both again."
#: Buffers that older versions of transformers wrote into the file, and that each model now makes by itself.
_LEFTOVERS = re.compile(r"(\brotary_emb\.inv_freq|\.masked_bias)$")


def check_folder(folder: Path, *, weights: bool = True) -> None:
    """Refuse a folder that lacks a file, holds one that is cut or damaged, or links to one outside.

    Raises
    ------
    FileNotFoundError, ValueError, PermissionError
    """
    try:
        names = {path.name for path in folder.iterdir()}
    except PermissionError:
        raise PermissionError(f"{str(folder)!r} cannot be read: its permissions forbid it to this user.") from None
    if "config.json" not in names:
        raise FileNotFoundError(f"{str(folder)!r} has no config.json (a model's configuration).")
    for name in sorted(path.name for pattern in SETTINGS for path in folder.glob(pattern)):
        _check_own(folder / name)
    if not weights:
        return
    if "adapter_config.json" in names:
        raise ValueError(
            f"{str(folder)!r} holds an adapter (adapter_config.json), whose base model lies elsewhere. Merge the two "
            "with peft's merge_and_unload(), save the result and load that folder."
        )
    for name in weight_files(folder, names):
        _check_own(folder / name)


def weight_files(folder: Path, names: Collection[str]) -> list[str]:
    """The safetensors files that hold the weights: one, or those that an index lists; all are among ``names``.

    Raises
    ------
    FileNotFoundError, ValueError
    """
    first = read_object(folder / "config.json").get("transformers_weights")
    first = first or next((name for name in (WEIGHTS, INDEX) if name in names), None)
    if first is None:
        others = sorted(name for name in names if name.endswith((".safetensors", ".bin", ".pt", ".pth", ".gguf")))
        found = f", found {', '.join(others[:3])}" if others else ""
        raise FileNotFoundError(
            f"{str(folder)!r} has no *.safetensors with its weights: expected {WEIGHTS} or {INDEX}"
            f"{found}. Note that only safetensors are read, convert other formats first."
        )
    _check_name(first, folder, names, (".safetensors", ".safetensors.index.json"))
    if not first.endswith(".json"):
        return [first]
    listed = read_object(folder / first).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise ValueError(f"{str(folder / first)!r} has no weight_map, which says which file holds which tensor.")
    for name in listed.values():
        _check_name(name, folder, names, (".safetensors",))
    return sorted(set(listed.values()))


def _check_name(name: Any, folder: Path, names: Collection[str], endings: tuple[str, ...]) -> None:
    if not isinstance(name, str) or re.search(r"[/\\]", name) or not name.endswith(endings):
        raise ValueError(
            f"{str(folder)!r} names {name!r} as a file with weights: expected a *.safetensors in the same folder. "
            "Nothing outside it and no other format is read."
        )
    if name not in names:
        raise FileNotFoundError(f"{str(folder)!r} has no {name}, which holds its weights. Get it again.")


def check_file(path: Path) -> None:
    """Refuse a file that is cut, empty or something else than its name says.

    Raises
    ------
    FileNotFoundError, ValueError, PermissionError
    """
    try:
        with path.open("rb") as file:
            begin = file.read(60)
    except FileNotFoundError:
        raise FileNotFoundError(f"{str(path)!r} is a link to a file that is gone. Get it again.") from None
    except OSError as error:
        raise type(error)(f"{str(path)!r} cannot be read: {error.strerror}.") from None
    if path.name in _OBJECTS:
        read_object(path)
    elif path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                file.keys()
        except Exception as error:  # the library's own errors, and the system's
            why = f"it has {path.stat().st_size:,} bytes; {one_line(error)}"
            if begin.startswith(b"version https://git-lfs"):
                why = "it is git-lfs's pointer to the file: run `git lfs pull`"
            raise ValueError(f"{str(path)!r} is no whole safetensors file: {why}. Get it again.") from None


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises
    ------
    ValueError
        If there is none.
    """
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text)
    except (ValueError, RecursionError):
        begin = path.read_bytes()[:30].decode("utf-8", "replace")
        raise ValueError(f"{str(path)!r} is not JSON: it begins with {begin!r}. Get it again.") from None
    if not isinstance(found, dict):
        raise ValueError(
            f"{str(path)!r} holds a JSON {type(found).__name__}: expected an object, {{...}}. Get it again."
        )
    return found


def tensor_names(folder: Path) -> set[str]:
    """The names of the tensors in a folder's weights.

    Raises
    ------
    ValueError
        If an expert is lacking: transformers stacks those that it finds, so that the next would take its place.
    """
    names: set[str] = set()
    for file in weight_files(folder, {path.name for path in folder.iterdir()}):
        with safe_open(folder / file, framework="pt") as opened:
            names.update(opened.keys())
    numbers: dict[tuple[str, str], set[int]] = {}
    for match in (re.fullmatch(r"(.*\bexperts)\.(\d+)\.(.+)", key) for key in names):
        if match:
            numbers.setdefault((match[1], match[3]), set()).add(int(match[2]))
    for (experts, weight), found in sorted(numbers.items()):
        if lost := sorted(set(range(max(found))) - found):
            raise ValueError(
                f"{str(folder)!r}: its *.safetensors lack {experts}.{lost[0]}.{weight}, and have the one of expert "
                f"{max(found)}. {GET_BOTH}"
            )
    return names


def check_tensors(name: str, model: PreTrainedModel, info: dict[str, Any], names: set[str], *, whole: bool) -> None:
    """Refuse a model of which a tensor did not come from the file, as transformers' loading info tells.

    Parameters
    ----------
    name : str
        The model's, for the error.
    model, info
        What ``from_pretrained(..., output_loading_info=True, ignore_mismatched_sizes=True)`` returns.
    names : set of str
        The names of the tensors in the file.
    whole : bool
        Whether the file may hold nothing else: not so if the model is one part of what the checkpoint is, or if its
        weights are quantized, with tensors of their own.

    Raises
    ------
    ValueError
    """
    missing, found = sorted(info["missing_keys"]), []
    if missing:
        found.append(f"{some(missing)} of the model {'is' if len(missing) == 1 else 'are'} not in it")
    wrong = [f"{key} {list(has)}, expected {list(wants)}" for key, has, wants in sorted(info["mismatched_keys"])]
    if wrong:
        found.append(f"{some(wrong)} {'has another shape' if len(wrong) == 1 else 'have other shapes'}")
    spare = sorted(key for key in info["unexpected_keys"] if whole and not _leftover(key, model))
    if spare:
        found.append(f"{some(spare)} in it {'is' if len(spare) == 1 else 'are'} no part of the model")
    twice = sorted(key for key in names if f"{model.base_model_prefix}.{key}" in names)
    if twice:
        found.append(f"{some(twice)} stands in it with and without '{model.base_model_prefix}.', for one place")
    if not found:
        return
    step = GET_BOTH
    head = getattr(model.get_output_embeddings(), "weight", None)
    if len(found) == 1 and missing == [key for key, tensor in model.named_parameters() if tensor is head]:
        step = (
            'If it is the input embedding, config.json lacks "tie_word_embeddings": true; else get the weights again.'
        )
    raise ValueError(f"{name!r}: its *.safetensors do not fit its config.json: {'; '.join(found)}. {step}")


def one_line(error: BaseException) -> str:
    """An error's message on one line, cut to a length that can be read."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."


def some(names: list[str]) -> str:
    """Up to three names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _leftover(key: str, model: PreTrainedModel) -> bool:
    """Whether a tensor is a buffer that the model makes by itself: causal masks, rotary frequencies."""
    kept = model.state_dict().keys()
    made = [name for name, _ in model.named_buffers() if name not in kept]
    return bool(_LEFTOVERS.search(key)) or any(f".{a}".endswith(f".{b}") for n in made for a, b in [(n, key), (key, n)])


def _check_own(path: Path) -> None:
    """Refuse a broken file, and one that lies neither in its folder nor where the hub's cache keeps files."""
    target = path.resolve()
    blobs = "blobs" in [parent.name for parent in target.parents[:2]]  # blobs/<name>, or blobs/ab/<name>
    if not blobs and not target.is_relative_to(path.parent.resolve()):
        raise ValueError(f"{str(path)!r} is a link to a file outside its folder: refused. Copy the file in.")
    check_file(path)
