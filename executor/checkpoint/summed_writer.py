"""Torch's writer of checkpoint files, with the checksum of each taken as it is written."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemWriter

from meshwright.executor.checkpoint.checksums import crc32_text

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class SummedWriter(FileSystemWriter):
    """Torch's writer; `crc32` has the checksum of every file that it has written, by the name that it opened."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, overwrite=False)
        self.crc32: dict[str, str] = {}
        self.fs = _SummedFiles(self.crc32)


class _SummedFiles(FileSystem):
    """Streams to write to leave their checksum behind."""

    def __init__(self, crc32: dict[str, str]) -> None:
        self._crc32 = crc32

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Generator[io.IOBase, None, None]:
        if mode != "wb":
            with super().create_stream(path, mode) as stream:
                yield stream
            return
        with _SummedStream(io.FileIO(path, mode)) as summed:
            yield summed
        self._crc32[Path(path).name] = crc32_text(summed.crc)


class _SummedStream(io.BufferedWriter):
    """Sums what is written, from begin to end: it does not seek."""

    crc = 0

    def write(self, buffer: ReadableBuffer, /) -> int:
        count = super().write(buffer)
        self.crc = zlib.crc32(memoryview(buffer).cast("B")[:count], self.crc)
        return count

    def seekable(self) -> bool:
        return False

    def seek(self, target: int, whence: int = 0, /) -> int:
        raise io.UnsupportedOperation(f"seek to {target} from {whence}")
