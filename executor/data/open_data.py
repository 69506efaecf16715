"""The data that a run names: a token file, or a synthetic stream."""

from __future__ import annotations

from pathlib import Path

from meshwright.costmodel.errors import InputError
from meshwright.executor.data.source import TokenSource
from meshwright.executor.data.synthetic import MarkovTokens, UniformTokens, ZipfTokens
from meshwright.executor.data.token_file import open_token_file

STREAMS: dict[str, type[UniformTokens | ZipfTokens | MarkovTokens]] = {
    "uniform": UniformTokens,
    "zipf": ZipfTokens,
    "markov": MarkovTokens,
}


def open_data(name: str, *, vocabulary: int, seq_len: int, global_batch: int, seed: int) -> TokenSource:
    """`uniform`, `zipf`, `markov`, or else the path of a token file; raises `InputError`."""
    stream = STREAMS.get(name)
    if stream is not None:
        return stream(vocabulary=vocabulary, seq_len=seq_len, global_batch=global_batch, seed=seed)
    path = Path(name)
    if path.suffix in (".txt", ".jsonl", ".json", ".parquet"):
        raise InputError(name, "", "text, expected a token file: `meshwright tokenize` makes one")
    return open_token_file(path, vocabulary=vocabulary, seq_len=seq_len, global_batch=global_batch, seed=seed)
