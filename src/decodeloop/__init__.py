"""decodeloop: decode loops for large language models, on PyTorch and on ONNX Runtime."""

from decodeloop.caches.convert import cache_to_tensors, tensors_to_cache, tensors_to_legacy, tensors_to_static
from decodeloop.caches.crop import crop_cache
from decodeloop.caches.shapes import empty_tensors
from decodeloop.caches.to_any import to_any
from decodeloop.conversation import Conversation
from decodeloop.decoding.lookup import PromptLookup
from decodeloop.decoding.pieces import text_pieces
from decodeloop.decoding.sampling import Sampler
from decodeloop.engines.draft import DraftModel
from decodeloop.engines.onnx_call import onnx_generate
from decodeloop.engines.onnx_decoder import OnnxDecoder
from decodeloop.engines.ranks import run_ranks
from decodeloop.engines.torch_loop import generate, stream
from decodeloop.engines.torch_static import TorchDecoder
from decodeloop.export.quantize import quantize_onnx
from decodeloop.export.traced import export_inputs
from decodeloop.export.write import ExportReport
from decodeloop.folder import open_folder, save_folder
from decodeloop.measuring.agreement import verify
from decodeloop.measuring.all_reduce import measure_all_reduce
from decodeloop.measuring.bandwidth import memory_bandwidth
from decodeloop.measuring.describe import string_type
from decodeloop.measuring.difference import max_diff, string_diff
from decodeloop.measuring.divergence import VerifyReport
from decodeloop.measuring.perplexity import perplexity
from decodeloop.measuring.provenance import Provenance, provenance
from decodeloop.measuring.roofline import Roofline, roofline
from decodeloop.measuring.timing import (
    GenerationTiming,
    Timing,
    measure,
    measure_all,
    prefill_and_decode,
    prefill_and_decode_all,
)
from decodeloop.measuring.timings import GenerationTimings, Timings
from decodeloop.models.load import LoadedModel, get_weight_type, load, unit_test_going
from decodeloop.proof.check import Checked
from decodeloop.proof.export import export_onnx

__all__ = [
    "Checked",
    "Conversation",
    "DraftModel",
    "ExportReport",
    "GenerationTiming",
    "GenerationTimings",
    "LoadedModel",
    "OnnxDecoder",
    "PromptLookup",
    "Provenance",
    "Roofline",
    "Sampler",
    "Timing",
    "Timings",
    "TorchDecoder",
    "VerifyReport",
    "cache_to_tensors",
    "crop_cache",
    "empty_tensors",
    "export_inputs",
    "export_onnx",
    "generate",
    "get_weight_type",
    "load",
    "max_diff",
    "measure",
    "measure_all",
    "measure_all_reduce",
    "memory_bandwidth",
    "onnx_generate",
    "open_folder",
    "perplexity",
    "prefill_and_decode",
    "prefill_and_decode_all",
    "provenance",
    "quantize_onnx",
    "roofline",
    "run_ranks",
    "save_folder",
    "stream",
    "string_diff",
    "string_type",
    "tensors_to_cache",
    "tensors_to_legacy",
    "tensors_to_static",
    "text_pieces",
    "to_any",
    "unit_test_going",
    "verify",
]
__version__ = "0.1.0"
