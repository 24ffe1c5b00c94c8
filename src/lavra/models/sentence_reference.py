"""A separate program that opens a folder with `sentence-transformers`, without anything of lavra, and writes vectors.

It is run as `python -P sentence_reference.py FOLDER REQUEST OUT`. REQUEST is a JSON file with the texts of each kind:
`text` is what `encode` reads, `query` what `encode_query` reads and `passage` what `encode_document` reads. OUT, a
safetensors file, receives the (texts, dimensions) vectors of each kind, and OUT.json what was opened.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def run(folder: str, request: Path, out: Path) -> None:
    """Make the vectors in float32, and write them.

    Args:
        folder: Folder of sentence-transformers.
        request: JSON file with the texts.
        out: Safetensors file to write; a JSON file of the same name with `.json` added is written too.
    """
    import sentence_transformers
    import torch
    import transformers
    from safetensors.torch import save_file

    model: Any = sentence_transformers.SentenceTransformer(
        folder, device="cpu", local_files_only=True, trust_remote_code=False
    )
    encode = {"text": model.encode, "query": model.encode_query, "passage": model.encode_document}
    texts = json.loads(request.read_text(encoding="utf8"))
    found = {kind: encode[kind](some, convert_to_tensor=True).float().contiguous() for kind, some in texts.items()}
    save_file(found, out)
    versions = {
        "modules": [type(module).__name__ for module in model],
        "sentence_transformers": sentence_transformers.__version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }
    Path(f"{out}.json").write_text(json.dumps(versions), encoding="utf8")


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
