"""The command line: a folder and a conversation with it, progress, errors of one line and their status."""

import io
import os
import re
import subprocess
import sys

import pytest
from transformers import GenerationConfig

import decodeloop
from decodeloop.__main__ import _sampler, main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("command") / "out"
    assert main(["export", "bundled", str(path), "--bits", "8", "--device", "cpu"]) == 0
    return path


@pytest.fixture(scope="module")
def opened(folder):
    return decodeloop.open_folder(folder, device="cpu")


def talk(monkeypatch, folder, lines, *options):
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    return main(["chat", str(folder), "--device", "cpu", "--max-new-tokens", "40", *options])


def test_export_says_what_it_does_and_what_it_made(tmp_path, capsys):
    assert main(["export", "bundled", str(tmp_path / "out"), "--exporter", "dynamo", "--device", "cpu"]) == 0
    said = capsys.readouterr()
    assert "load bundled ..." in said.err
    assert "export (dynamo) and check ..." in said.err
    assert "\r" not in said.err  # frames are for terminals
    assert said.out.startswith(f"{tmp_path / 'out'}: ")
    assert "MB, a traced graph; " in said.out
    assert "of the model's" in said.out


def test_a_chat_answers_each_line_and_continues_where_there_is_no_template(folder, opened, monkeypatch, capsys):
    assert talk(monkeypatch, folder, ["def add(a, b):", ""], "--stats") == 0
    said = capsys.readouterr()
    decoder, tokenizer = opened
    ids = tokenizer("def add(a, b):", return_tensors="pt").input_ids
    answer = decoder.generate(ids, max_new_tokens=40)[0, ids.shape[1] :]
    assert said.out == tokenizer.decode(answer, skip_special_tokens=True) + "\n"
    assert "no chat template: it continues" in said.err
    assert f"read {ids.shape[1]} tokens, wrote {len(answer)} in" in said.err


def test_sampling_follows_the_seed(folder, monkeypatch, capsys):
    runs = []
    for seed in ("1", "1", "2"):
        assert talk(monkeypatch, folder, ["# x"], "--temperature", "2", "--seed", seed) == 0
        runs.append(capsys.readouterr().out)
    assert runs[0] == runs[1] != runs[2]


def test_the_folders_settings_say_how_tokens_are_drawn(opened):
    decoder, said = opened[0], opened[0].generation_config
    assert _sampler(decoder, None, None) is None
    decoder.generation_config = GenerationConfig(do_sample=True, temperature=0.5, top_p=0.9)
    drawn = _sampler(decoder, None, 3)
    assert (drawn.temperature, drawn.top_p, drawn.seed) == (0.5, 0.9, 3)
    assert _sampler(decoder, 0.7, None).temperature == 0.7
    assert _sampler(decoder, 0.0, None) is None
    decoder.generation_config = said


def test_the_oldest_turns_are_forgotten_where_the_model_has_no_more_positions(folder, monkeypatch, capsys):
    opened = decodeloop.open_folder(folder, device="cpu")
    opened[0].max_positions = 90
    monkeypatch.setattr("decodeloop.__main__.open_folder", lambda *_, **__: opened)
    assert talk(monkeypatch, folder, [f"def add_{number}(a, b):" for number in range(4)]) == 0
    assert "The oldest turns are forgotten: the model has 90 positions" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["export", "./nothing", "OUT"], "'./nothing' is not a directory: expected"),
        (["export", "bundled", "OUT/a/b"], "does not exist"),
        (["export", "bundled", "TAKEN"], "exists already"),
        (["export", "bundled", "OUT", "--dtype", "int8"], "dtype='int8': expected"),
        (["chat", "OUT"], "has no model.onnx"),
        (["chat", "TAKEN"], "has no model.onnx"),
    ],
)
def test_an_error_is_one_line_and_status_2(tmp_path, capsys, arguments, said):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "x").touch()
    places = {"OUT": str(tmp_path / "out"), "TAKEN": str(tmp_path / "taken"), "OUT/a/b": str(tmp_path / "a" / "b")}
    assert main([places.get(argument, argument) for argument in arguments]) == 2
    last = capsys.readouterr().err.rstrip("\n").splitlines()[-1]
    assert last.startswith("decodeloop: error: ")
    assert said in last
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize("arguments", [[], ["export"], ["export", "a", "b", "--bits", "3"], ["talk"]])
def test_wrong_usage_is_status_2(arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


@pytest.mark.parametrize("arguments", [["--help"], ["export", "--help"], ["chat", "--help"]])
def test_help_says_how(arguments):
    result = subprocess.run([sys.executable, "-m", "decodeloop", *arguments], capture_output=True, text=True)
    assert result.returncode == 0
    assert result.stdout.startswith("usage: python -m decodeloop")


@pytest.mark.skipif(os.name == "nt", reason="no pseudo-terminals")
def test_a_terminal_sees_that_something_goes_on(tmp_path):
    import pty

    control, terminal = pty.openpty()
    command = [sys.executable, "-m", "decodeloop", "export", "bundled", str(tmp_path / "out"), "--exporter", "dynamo"]
    subprocess.run(command, stderr=terminal, stdout=subprocess.DEVNULL, check=True)
    os.close(terminal)
    said = b""
    while chunk := _read(control):
        said += chunk
    assert said.count(b"\rexport (dynamo) and check: ") > 1
    assert re.search(rb"\rexport \(dynamo\) and check: tracing ... \d s", said)


def _read(descriptor):
    try:
        return os.read(descriptor, 4096)
    except OSError:  # Linux's end of a terminal
        return b""
