"""A plain installation has no onnxruntime: everything but running a graph works, and that says what to install."""

import subprocess
import sys
import textwrap

WITHOUT = "import sys; sys.modules['onnxruntime'] = None\n"  # an import of it fails, installed or not


def run(code):
    result = subprocess.run([sys.executable, "-c", WITHOUT + textwrap.dedent(code)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_the_package_loads_decodes_exports_and_measures():
    assert run(
        """
        import decodeloop, tempfile
        loaded = decodeloop.load(device="cpu")
        ids = loaded.tokenizer("def f(x):", return_tensors="pt").input_ids
        tokens = decodeloop.generate(loaded.model, ids, max_new_tokens=3, eos_token_id=None)
        assert tokens.shape[1] == ids.shape[1] + 3
        with tempfile.TemporaryDirectory() as folder:
            report = decodeloop.export_onnx(loaded.model, f"{folder}/model.onnx", exporter="fused")
            assert decodeloop.roofline(report.path, "cpu", bandwidth=1e9).weights > 0
        decodeloop.provenance()
        print("fine")
        """
    ).endswith("fine")


def test_running_and_quantizing_a_graph_say_in_one_line_which_extra_to_install():
    said = run(
        """
        import decodeloop, tempfile
        loaded = decodeloop.load(device="cpu")
        with tempfile.TemporaryDirectory() as folder:
            path = decodeloop.export_onnx(loaded.model, f"{folder}/model.onnx", exporter="fused").path
            for call in (lambda: decodeloop.OnnxDecoder(path), lambda: decodeloop.onnx_generate(path, None),
                         lambda: decodeloop.quantize_onnx(path, f"{folder}/int8.onnx")):
                try:
                    call()
                except ImportError as error:
                    print(error)
        """
    ).splitlines()
    expected = "onnxruntime is not installed: pip install 'decodeloop[cpu]', or 'decodeloop[cuda]' for an NVIDIA GPU."
    assert said == [expected] * 3
