"""decodeloop: decode loops for large language models, on PyTorch and on ONNX Runtime."""

from decodeloop.cache import (
    cache_to_tensors,
    empty_tensors,
    tensors_to_cache,
    tensors_to_legacy,
    tensors_to_static,
    to_any,
)
from decodeloop.describe import max_diff, string_diff, string_type
from decodeloop.export import ExportReport, export_onnx
from decodeloop.flat_decoder import export_inputs
from decodeloop.lookup import PromptLookup
from decodeloop.loops import generate, stream
from decodeloop.models import LoadedModel, get_weight_type, load, unit_test_going
from decodeloop.onnx_loops import OnnxDecoder, onnx_generate
from decodeloop.provenance import Provenance, provenance
from decodeloop.quantize import quantize_onnx
from decodeloop.rewind import crop_cache
from decodeloop.roofline import Roofline, roofline
from decodeloop.sampling import Sampler
from decodeloop.static_loops import TorchDecoder
from decodeloop.timing import (
    GenerationTiming,
    Timing,
    measure,
    measure_all,
    memory_bandwidth,
    prefill_and_decode,
    prefill_and_decode_all,
)
from decodeloop.verify import VerifyReport, perplexity, verify

__all__ = [
    "ExportReport",
    "GenerationTiming",
    "LoadedModel",
    "OnnxDecoder",
    "PromptLookup",
    "Provenance",
    "Roofline",
    "Sampler",
    "Timing",
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
    "memory_bandwidth",
    "onnx_generate",
    "perplexity",
    "prefill_and_decode",
    "prefill_and_decode_all",
    "provenance",
    "quantize_onnx",
    "roofline",
    "stream",
    "string_diff",
    "string_type",
    "tensors_to_cache",
    "tensors_to_legacy",
    "tensors_to_static",
    "to_any",
    "unit_test_going",
    "verify",
]
__version__ = "0.1.0"
