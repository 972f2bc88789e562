"""Checksums of an exported graph and its weights: a bit that has changed since is found when the graph is opened.

The file of a graph is a serialized protobuf message, and two such messages one behind the other are one message. So the
checksums stand in front of the graph, as an entry of its metadata, and cover every byte behind them. Another tool that
writes the graph anew puts its fields in their usual order, this entry behind the nodes: then it no longer counts, and
what the tool changed is not taken for damage.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path

import onnx

#: The key of the graph's metadata under which the checksums stand.
CHECKSUMS = "decodeloop.crc32"


def seal(graph: onnx.ModelProto, weights: int) -> bytes:
    """The bytes of a graph's file, its checksum and that of its weights in front."""
    data = graph.SerializeToString()
    return _front(zlib.crc32(data), weights) + data


def is_sealed(data: bytes) -> bool:
    """Whether a graph's file begins with its checksums."""
    return data.startswith(_START)


def graph_is_whole(data: bytes) -> bool:
    """Whether the bytes of a sealed graph are those that were written."""
    return data[len(_START) : len(_START) + 8] == b"%08x" % zlib.crc32(memoryview(data)[_LENGTH:])


def weights_are_whole(data: bytes, files: Iterable[Path]) -> bool:
    """Whether the weights of a sealed graph are those that were written with it."""
    return data[_LENGTH - 8 : _LENGTH] == b"%08x" % checksum(files)


def checksum(files: Iterable[Path]) -> int:
    """CRC-32 of files, one after the other.

    It tells any changed bit and any two files, but for one pair in 4 billion, and is the fastest that Python has: 0.3 s
    for 1 GB, where SHA-256 takes 0.7 s, or 2 s on a processor without instructions for it.
    """
    value, buffer = 0, memoryview(bytearray(1 << 20))
    for path in files:
        with open(path, "rb", buffering=0) as file:
            while count := file.readinto(buffer):
                value = zlib.crc32(buffer[:count], value)
    return value


def _front(graph: int, weights: int) -> bytes:
    front = onnx.ModelProto()
    front.metadata_props.add(key=CHECKSUMS, value=f"{graph:08x} {weights:08x}")
    return front.SerializeToString()


_LENGTH = len(_front(0, 0))
_START = _front(0, 0)[: -len("01234567 01234567")]
