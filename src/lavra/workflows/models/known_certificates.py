"""Certificates of base models that earlier runs made on this machine: what was proved once need not be proved again.

Another process opens a model of 135M parameters for some ten seconds to prove it, which is much of a short budget. The
certificate holds for the same files, the same versions of lavra's models, of `transformers` and of torch, and the same
processor.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from lavra.core.code import code_fingerprint
from lavra.core.disk.user_cache import keep_entry, read_entries
from lavra.core.machine import processor_flags, processor_name
from lavra.models.certificate import Certificate

CERTIFICATES = "certificates.json"
"""Name of the file in the cache folder that keeps the certificates."""

_MOST_KEPT = 200

_WORTH_KEEPING = 1 << 26
"""Bytes of a folder below which its model is proved each time: that takes little more than the start of a process."""
_CHUNK = 1 << 24


def certificate_key(folder: Path) -> str | None:
    """Return what a certificate of a Hugging Face folder holds for, as a hash; None for a small model.

    Args:
        folder: Folder of the model. The content of all its files counts, and that of no folder in it.
    """
    import transformers
    import xxhash

    files = sorted(path for path in folder.iterdir() if path.is_file())
    if sum(path.stat().st_size for path in files) < _WORTH_KEEPING:
        return None
    digest = xxhash.xxh3_128()
    versions = [transformers.__version__, torch.__version__, code_fingerprint("models")]
    digest.update(json.dumps([*versions, processor_name(), processor_flags()], default=str).encode())
    for path in files:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def known_certificate(key: str | None) -> Certificate | None:
    """Return the certificate that an earlier run kept, if it holds.

    Args:
        key: What `certificate_key` returned.
    """
    try:
        found = Certificate.from_json(read_entries(CERTIFICATES)[key or ""])
    except (KeyError, TypeError):
        return None
    return found if found.holds else None


def keep_certificate(key: str | None, certificate: Certificate) -> None:
    """Keep a certificate for later runs. A cache that cannot be written costs a proof at each run, and nothing else.

    Args:
        key: What `certificate_key` returned.
        certificate: The certificate.
    """
    if key is not None:
        keep_entry(CERTIFICATES, key, certificate.to_json(), most=_MOST_KEPT)
