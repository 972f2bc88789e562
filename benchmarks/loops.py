"""The decode loops that are compared: each is opened once and then runs prompts, ``run(input_ids, k) -> tokens``.

With ``run(input_ids, k, on_token)``, the function ``on_token`` is called after each step, whatever it is given.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy
import torch
from transformers import StoppingCriteriaList

import decodeloop

Run = Callable[..., torch.Tensor]

#: What onnxruntime-genai's builder calls a dtype.
PRECISION = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


class Skipped(Exception):
    """Why a loop cannot be run here."""


def generate(model, folder: Path) -> Run:
    """transformers' own loop, with a cache that grows."""
    return _generate(model)


def generate_static(model, folder: Path) -> Run:
    """The same with a static cache, its step compiled (on a GPU)."""
    if model.device.type == "cpu":
        raise Skipped("transformers compiles the step on a GPU only")
    return _generate(model, cache_implementation="static")


def torch_loop(model, folder: Path) -> Run:
    """decodeloop.generate: the loop of the first page."""
    return _ours(functools.partial(decodeloop.generate, model))


def torch_static(model, folder: Path) -> Run:
    """decodeloop.TorchDecoder: a static cache; on a GPU, a captured step."""
    return _ours(decodeloop.TorchDecoder(model).generate)


def torch_compiled(model, folder: Path) -> Run:
    """decodeloop.TorchDecoder with its step compiled, then captured where there is a GPU."""
    return _ours(decodeloop.TorchDecoder(model, compile=True).generate)


def onnx_dynamo(model, folder: Path) -> Run:
    """The plain graph: a cache that grows, two sets of buffers."""
    return onnx_loop(_export(model, folder, "dynamo"), model.device)


def onnx_fused(model, folder: Path) -> Run:
    """The fused graph: one buffer for past and present; on a GPU, a captured step."""
    return onnx_loop(_export(model, folder, "fused"), model.device)


def onnx_fused_eager(model, folder: Path) -> Run:
    """The fused graph, its steps launched one by one."""
    if model.device.type == "cpu":
        raise Skipped("there are no CUDA graphs on a CPU")
    return onnx_loop(_export(model, folder, "fused"), model.device, cuda_graph=False)


def onnx_int8(model, folder: Path) -> Run:
    """The fused graph with weights of 8 bits."""
    return onnx_loop(_quantized(model, folder, 8), model.device)


def onnx_int4(model, folder: Path) -> Run:
    """The fused graph with weights of 4 bits."""
    return onnx_loop(_quantized(model, folder, 4), model.device)


def genai(model, folder: Path) -> Run:
    """onnxruntime-genai, the graph of its own builder."""
    return _genai(model, folder, cuda_graph=False)


def genai_graph(model, folder: Path) -> Run:
    """The same with its CUDA graph."""
    if model.device.type == "cpu":
        raise Skipped("there are no CUDA graphs on a CPU")
    return _genai(model, folder, cuda_graph=True)


LOOPS: dict[str, Callable[..., Run]] = {
    "generate": generate,
    "generate static": generate_static,
    "torch": torch_loop,
    "torch static": torch_static,
    "torch compiled": torch_compiled,
    "onnx dynamo": onnx_dynamo,
    "onnx fused no graph": onnx_fused_eager,
    "onnx fused": onnx_fused,
    "onnx fused int8": onnx_int8,
    "onnx fused int4": onnx_int4,
    "genai": genai,
    "genai graph": genai_graph,
}


@contextlib.contextmanager
def exports(folder: Path | None) -> Iterator[Path]:
    """Where graphs are exported to: a folder that stays, so that the next run finds them, or one that does not."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder.resolve()  # links within it lead somewhere from anywhere
    else:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)


def exported(model, path: Path, exporter: str) -> Path:
    """The graph of a model, written unless it is there: a folder of exports belongs to one model."""
    if not path.exists():
        report = decodeloop.export_onnx(model, path, exporter=exporter, logits="last")
        print(f"  exported {path.stem}: {report.seconds:.1f} s, {report.bytes / 1e6:.0f} MB", flush=True)
    return path


def _export(model, folder: Path, exporter: str) -> Path:
    return exported(model, folder / f"{exporter}.onnx", exporter)


def _quantized(model, folder: Path, bits: int) -> Path:
    path = folder / f"fused.int{bits}.onnx"
    return path if path.exists() else decodeloop.quantize_onnx(_export(model, folder, "fused"), path, bits=bits)


def onnx_loop(path: Path, device: torch.device, **options) -> Run:
    """decodeloop.OnnxDecoder, on the device that was asked for or not at all."""
    return _ours(decodeloop.OnnxDecoder(path, device=device, **options).generate)


def _ours(generate: Callable[..., torch.Tensor]) -> Run:
    return lambda ids, k, on_token=None: generate(ids, max_new_tokens=k, eos_token_id=None, on_token=on_token)


def _generate(model, **options) -> Run:
    options |= {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}

    def run(ids: torch.Tensor, k: int, on_token: Callable | None = None) -> torch.Tensor:
        def told(tokens: torch.Tensor, scores, **_) -> torch.Tensor:  # asked after each step whether a row ends
            on_token(tokens)
            return torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)

        watchers = {"stopping_criteria": StoppingCriteriaList([told])} if on_token else {}
        return model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=k, **options, **watchers)

    return run


def _genai(model, folder: Path, cuda_graph: bool) -> Run:
    if importlib.util.find_spec("onnxruntime_genai") is None:
        raise Skipped("onnxruntime-genai is not installed")
    import onnxruntime_genai

    built = _genai_folder(model, folder)
    target = folder / f"genai-{'graph' if cuda_graph else 'plain'}"
    if not target.exists():
        target.mkdir()
        for file in built.iterdir():
            (target / file.name).symlink_to(file)
        config = json.loads((built / "genai_config.json").read_text())
        config["model"]["eos_token_id"] = config["model"]["vocab_size"] - 1  # a text that it ends early is not timed
        providers = config["model"]["decoder"]["session_options"].get("provider_options", [])
        for provider in providers:
            for options in provider.values():
                options["enable_cuda_graph"] = str(int(cuda_graph))
        (target / "genai_config.json").unlink()
        (target / "genai_config.json").write_text(json.dumps(config))
    session = onnxruntime_genai.Model(str(target))

    def run(ids: torch.Tensor, k: int, on_token: Callable | None = None) -> torch.Tensor:
        rows, length = ids.shape
        params = onnxruntime_genai.GeneratorParams(session)
        params.set_search_options(do_sample=False, batch_size=rows, max_length=length + k)
        generator = onnxruntime_genai.Generator(session, params)
        tokens = ids.cpu().numpy().astype("int32")
        generator.append_tokens(tokens if rows > 1 else tokens[0])
        for _ in range(k):
            generator.generate_next_token()
            if on_token:
                on_token(None)
        sequences = numpy.stack([generator.get_sequence(row) for row in range(rows)])
        return torch.from_numpy(sequences).to(ids.device, torch.int64)

    return run


def _genai_folder(model, folder: Path) -> Path:
    """The graph of onnxruntime-genai's builder, made from a checkpoint on disk."""
    out, checkpoint = folder / "genai", folder / "checkpoint"
    if out.exists():
        return out
    model.save_pretrained(checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    rope = config.get("rope_parameters") or {}
    config |= {name: rope[name] for name in ("partial_rotary_factor", "rope_theta") if name in rope}
    (checkpoint / "config.json").write_text(json.dumps(config))
    decodeloop.load().tokenizer.save_pretrained(checkpoint)  # the builder copies one; it is not used
    kind = ["-p", PRECISION[model.dtype], "-e", "cuda" if model.device.type == "cuda" else "cpu"]
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", checkpoint, "-o", out, *kind]
    built = subprocess.run([*command, "-c", folder / "genai-cache"], capture_output=True, text=True)
    shutil.rmtree(checkpoint)
    if built.returncode:
        raise Skipped(f"onnxruntime-genai's builder failed: {built.stderr.strip().splitlines()[-1]}")
    return out
