"""The program on the page about the files of an index reads one with numpy alone, and finds what lavra finds."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("bm25s")
pytest.importorskip("Stemmer")

from lavra.search.corpora.documents import Document
from lavra.search.index.dense.embedding import Vectorizer
from lavra.search.index.dense.settings import DenseSettings, Store
from lavra.search.index.index import Index
from lavra.search.index.manifest import IndexSettings
from lavra.text.analyzers import Analyzer
from word_vectors import WordEncoder

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "index-files.md"
WITHOUT_LAVRA = 'import sys\nsys.modules["lavra"] = sys.modules["torch"] = None\n'


@pytest.mark.parametrize(("store", "chunk_words"), [("float16", 0), ("int8", 4), ("binary", 0)])
def test_an_index_is_read_without_lavra(tmp_path: Path, store: Store, chunk_words: int) -> None:
    encoder = WordEncoder()
    index = Index.create(tmp_path / "index", IndexSettings(Analyzer("pt"), chunk_words=chunk_words))
    for texts in (["O rio corre. O mar espera.", "A lua nasce tarde. O sol nasce cedo."], ["O rio é largo e azul."]):
        with index.update() as update:
            update.vectorizer = Vectorizer(DenseSettings("m", "words", 32, store), lambda: encoder)
            for text in texts:
                update.put(Document(f"é{len(text)}", text, title=text[:5]))
    index = Index(index.folder)
    query = "rio azul"
    vector = encoder.encode([query])[0]
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf8"), re.DOTALL)
    terms = ",".join(index.settings.analyzer.terms(query))
    words = [sys.executable, "-c", WITHOUT_LAVRA + program, str(index.folder), terms, json.dumps(vector.tolist())]
    read = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    lines = [json.loads(line) for line in read.splitlines()]
    numbers, scores = index.search(query, 3)
    assert index.vectors is not None
    near = index.vectors.search(vector, 3, exact=True)
    for name, found, values in (("words", numbers, scores), ("vectors", near.numbers, near.similarities)):
        rows = [line for line in lines if line[0] == name][: len(found)]
        assert [row[1] for row in rows] == index.ids(found)
        assert [row[2] for row in rows] == pytest.approx(values.tolist(), abs=1e-3)
        assert [row[3] for row in rows] == [index.document(number)[0].title for number in found.tolist()]
