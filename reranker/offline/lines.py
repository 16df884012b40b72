"""Files of lines: cut into partitions in one pass, and read again partition by partition. Memory: one line.

Rows are the lines that are not blank. Only line feeds end a line, as JSON lines want it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

from reranker.offline.evaluation.formats import InputFileError
from reranker.offline.rows import MAX_ROW_BYTES, Partition

_MAX_PARTITION_BYTES = 64 * 2**20
_BOM = b"\xef\xbb\xbf"


class PartitionCutter:
    """Numbers partitions and rows over all files of an input."""

    def __init__(self, partition_rows: int) -> None:
        """Start with the first row of the first partition.

        Args:
            partition_rows: Rows of a partition, at most.
        """
        self.partition_rows = partition_rows
        self.partitions: list[Partition] = []
        self.rows = 0

    def add(self, rows: int, file: int, start: int, end: int, first_line: int = 1) -> None:
        """Note the next partition; see `Partition`."""
        self.partitions.append(Partition(len(self.partitions), self.rows, rows, file, start, end, first_line))
        self.rows += rows


def cut_lines(cutter: PartitionCutter, path: Path, file: int, *, is_heading: Callable[[bytes], bool]) -> str:
    """Cut one file into partitions; returns the digest of its content.

    Args:
        cutter: Takes the partitions.
        path: The file.
        file: Its index in the input.
        is_heading: Whether the first line is none of the rows.

    Raises:
        InputFileError: It cannot be read.
    """
    digest = blake2b(digest_size=16)
    rows = start = position = 0
    first_line = 1
    for number, (line, length) in enumerate(measured_lines(path, digest.update), start=1):
        end = position + length
        text = line.removeprefix(_BOM) if number == 1 else line
        if number == 1 and is_heading(text):
            start, first_line = end, 2
        elif text.strip() or length > len(line):
            rows += 1
        if rows >= cutter.partition_rows or (rows and end - start >= _MAX_PARTITION_BYTES):
            cutter.add(rows, file, start, end, first_line)
            rows, start, first_line = 0, end, number + 1
        position = end
    if rows:
        cutter.add(rows, file, start, position, first_line)
    return digest.hexdigest()


def measured_lines(path: Path, seen: Callable[[bytes], object]) -> Iterator[tuple[bytes, int]]:
    """Give each line, cut to MAX_ROW_BYTES, with its whole length in bytes.

    Args:
        path: The file.
        seen: Gets every byte.

    Raises:
        InputFileError: It cannot be read.
    """
    try:
        with path.open("rb", buffering=2**20) as stream:
            while line := stream.readline(MAX_ROW_BYTES):
                seen(line)
                yield line, len(line) + _skip_rest(stream, line, seen)
    except OSError as error:
        raise InputFileError(str(path), None, error.strerror or str(error)) from None


def partition_lines(path: Path, partition: Partition) -> Iterator[tuple[int, bytes | None]]:
    """Give the lines of a partition that are not blank, each with its number; None: too long to be read."""
    with path.open("rb", buffering=2**20) as stream:
        stream.seek(partition.start)
        number = partition.first_line
        while stream.tell() < partition.end and (line := stream.readline(MAX_ROW_BYTES)):
            too_long = _skip_rest(stream, line) > 0
            if number == 1:
                line = line.removeprefix(_BOM)
            if too_long:
                yield number, None
            elif line.strip():
                yield number, line
            number += 1


def _skip_rest(stream: BinaryIO, line: bytes, seen: Callable[[bytes], object] = len) -> int:
    """Read on to the end of a line that was cut; returns the bytes read."""
    skipped = 0
    while len(line) == MAX_ROW_BYTES and not line.endswith(b"\n"):
        line = stream.readline(MAX_ROW_BYTES)
        seen(line)
        skipped += len(line)
    return skipped
