"""An export is proved before it is written."""

from __future__ import annotations

import contextlib
import functools
import os
from pathlib import Path

from transformers import PreTrainedModel

from decodeloop.checks import check_choice, given_path
from decodeloop.export.write import Exporter, ExportReport, Logits, write_onnx
from decodeloop.models.given import as_model
from decodeloop.models.load import LoadedModel
from decodeloop.progress import working
from decodeloop.proof.check import check_graph


def export_onnx(
    model: PreTrainedModel | LoadedModel,
    path: str | os.PathLike[str],
    *,
    exporter: Exporter = "dynamo",
    logits: Logits | None = None,
    check: bool = True,
    progress: bool = True,
) -> ExportReport:
    """Export a decoder to one ONNX graph for both phases: reading the prompt, and decoding through the cache.

    The graph takes ``input_ids`` ``[batch, sequence]``, ``attention_mask`` ``[batch, total]``, ``position_ids``
    ``[batch, sequence]`` and ``past_key_values.{layer}.key|value`` ``[batch, heads, past, head size]``, all of them
    dynamic in batch and length, and returns ``logits`` and ``present.{layer}.key|value``. The names are those that
    Optimum and onnxruntime-genai use. Its metadata holds the model's configuration and special tokens.

    A layer that keeps a convolution or recurrent state has it as ``past_states.{layer}.conv|recurrent``, of fixed size,
    and ``present_states.{layer}.conv|recurrent``: in the order of layers, in each after its keys and values.

    Parameters
    ----------
    model : transformers PreTrainedModel, or LoadedModel
        A decoder that keeps keys and values, or such states, or both. The graph has the dtype of its weights.
    path : str or path
        The file to write, in an existing folder; the weights go beside it, to ``<path>.data``, or, where that name is
        taken, ``<path>.<checksum>.data``. Both or neither: who reads them meets the old pair or the new one, and the
        old one's weights are removed by the next export to ``path`` a minute or more later.
    exporter : str
        - ``"dynamo"``: ``torch.onnx.export`` on the plain model, for any ONNX runtime. The cache grows: ``present`` is
          ``past`` with the new positions behind.
        - ``"fused"``: for onnxruntime, and the faster one. Each layer's attention is one
          ``com.microsoft::GroupQueryAttention``, whatever the number of key heads, over a cache of fixed capacity that
          past and present share: ``past`` is ``capacity``, ``present`` the same buffer, and rows are padded on the
          right, which :class:`decodeloop.OnnxDecoder` takes care of. A model that keeps states is refused.

          For families whose layers are described (Cohere, Cohere 2, Falcon, Gemma 1 to 4, GLM, GLM-4, GPT-2, GPT-NeoX,
          Granite, Llama, Mistral, OLMo 1 to 3, OPT, Phi, Phi-3, Qwen 2 and 3, SmolLM3, StarCoder 2) the whole graph is
          put together from fused operators, in a second or two. Except where positions are learned (GPT-2, OPT), it
          has no ``position_ids``: the operator counts them from the mask and rotates by itself. Other models, and
          those of these families that have more than that (experts, ALiBi, layers that share keys and values, heads
          of which fewer than 16 dimensions rotate), are traced with that operator as their attention, which takes
          longer, and their graph has ``position_ids`` as usual. ``ExportReport.graph`` says which. ``"gqa"`` is an
          older name of it.
    logits : str, optional
        ``"all"``: the logits of every position of ``input_ids``; ``"last"``: of the last one only, ``[batch, 1,
        vocabulary]``, which is all that decoding needs. Default: ``"all"`` with ``"dynamo"``, ``"last"`` with
        ``"fused"``.

    check : bool
        Run the graph in onnxruntime, on the model's device, before it gets its name: one row, past the model's window
        if it has one that is not too long, a left-padded batch, and a padded row, each read in pieces of one and of
        several tokens. Logits must be the model's, within what rounding comes to in its dtype.
        ``ExportReport.checked`` says what was compared; without onnxruntime, nothing is. False skips it, which saves
        the seconds that it takes.
    progress : bool
        Show on a terminal what is being done and for how long, once it has taken a few seconds. Notebooks, logs and
        pipes get nothing. False is silent.

    Returns
    -------
    ExportReport

    Raises
    ------
    ValueError
        If an argument cannot be used, the model is one that this export does not cover, or the graph does not run or
        does not compute what the model does. Then nothing is written.
    FileNotFoundError
        If the folder of ``path`` does not exist.

    Examples
    --------
    >>> import decodeloop, tempfile
    >>> loaded = decodeloop.load(device="cpu")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = decodeloop.export_onnx(loaded.model, f"{folder}/model.onnx", exporter="fused")
    >>> report.checked.compared
    True
    >>> report.graph, report.operators["GroupQueryAttention"], report.outputs["logits"]
    ('fused', 6, ['batch', 1, 3072])
    """
    model = as_model(model)
    check_choice("check", check, True, False)
    check_choice("progress", progress, True, False)
    prove = functools.partial(check_graph, model=model) if check else _skip
    shown = working(f"Exporting {type(model).__name__}") if progress else contextlib.nullcontext()
    with shown:
        return write_onnx(model, given_path("path", path), exporter, logits, prove)


def _skip(path: Path) -> None:
    """No proof."""
