"""`meshwright tokenize`: text files to a token file, the data of `meshwright run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from meshwright.commands.progress import point_bar

EXAMPLES = """\b
Examples:
  meshwright tokenize corpus.txt --tokenizer mistralai/Mixtral-8x7B-v0.1 -o tokens.bin
  meshwright tokenize *.jsonl --tokenizer folder-with-tokenizer.json/ -o tokens.bin
"""


def command(
    texts: Annotated[
        list[Path],
        typer.Argument(metavar="TEXT...", help="UTF-8 files: .jsonl a document a line in `text`, others one document."),
    ],
    tokenizer: Annotated[
        str, typer.Option(metavar="NAME_OR_PATH", help="Hugging Face name, folder or tokenizer.json.")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="TOKENS.bin", help="Where the tokens go; a header goes beside.")
    ],
    eos: Annotated[
        str | None, typer.Option(metavar="TOKEN", help="Token behind every document; default: the tokenizer's.")
    ] = None,
) -> None:
    """Write the tokens of text files into one file that a run reads.

    The file appears when it is whole. Its header, TOKENS.bin.json, says which tokenizer made it.
    """
    from rich.console import Console

    from meshwright.executor.data.tokenizer import load_tokenizer, tokenize_files

    loaded = load_tokenizer(tokenizer, eos)
    with point_bar(Console(stderr=True), "bytes") as progress:
        header = tokenize_files(texts, loaded, output, progress)
    typer.echo(f"{header.num_tokens:,} tokens of {header.num_documents:,} documents written to {output}")
