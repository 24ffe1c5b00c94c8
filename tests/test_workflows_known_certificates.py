"""A certificate of a base model is kept for the same files, and for no others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lavra.models.certificate import Certificate
from lavra.workflows.models import known_certificates
from lavra.workflows.models.known_certificates import certificate_key, keep_certificate, known_certificate

CERTIFICATE = Certificate(
    architecture="LlamaForCausalLM",
    tokens=512,
    largest_difference=1e-6,
    largest_logit=20.0,
    same_next_token=1.0,
    perplexity=7.0,
    transformers_perplexity=7.0,
    tied=True,
    transformers_tied=True,
    tied_by_config=True,
    missing=(),
    unexpected=(),
    transformers="5",
    torch="2",
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(known_certificates, "_WORTH_KEEPING", 1)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    return tmp_path / "model"


def test_what_was_proved_is_known_until_a_file_changes(folder: Path):
    key = certificate_key(folder)
    assert known_certificate(key) is None
    keep_certificate(key, CERTIFICATE)
    assert known_certificate(certificate_key(folder)) == CERTIFICATE
    (folder / "config.json").write_text("{}")
    assert known_certificate(certificate_key(folder)) is None


def test_one_that_does_not_hold_and_a_damaged_file_are_no_proof(folder: Path):
    key = certificate_key(folder)
    keep_certificate(key, replace(CERTIFICATE, largest_difference=1.0))
    assert known_certificate(key) is None
    for content in ("[]", "{", f'{{"{key}": 3}}'):
        (folder.parent / "cache" / "lavra" / known_certificates.CERTIFICATES).write_text(content)
        assert known_certificate(key) is None
    keep_certificate(key, CERTIFICATE)
    assert known_certificate(key) == CERTIFICATE


def test_a_small_model_is_proved_each_time(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(known_certificates, "_WORTH_KEEPING", 1 << 20)
    assert certificate_key(folder) is None
    keep_certificate(None, CERTIFICATE)
    assert known_certificate(None) is None
