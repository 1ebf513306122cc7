"""Names of metrics that every tracker accepts: letters, digits and "_", in parts joined by "/".

MLflow refuses other names, and the run would end there. W&B cannot sort by them. An exporter to Prometheus has only "/"
to replace.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from hashlib import blake2b

_ILLEGAL = re.compile(r"[^A-Za-z0-9_]")


def legal_part(text: str) -> str:
    """A text as one part of a metric's name: "_" stands for every other character. "openai/gsm8k": "openai_gsm8k"."""
    return _ILLEGAL.sub("_", text)


def legal_parts(labels: Iterable[str]) -> dict[str, str]:
    """`legal_part` of each label. Equal names, and those of illegal characters only, get a fingerprint."""
    parts = {label: legal_part(label) for label in labels}
    counts = Counter(parts.values())
    return {
        label: part if counts[part] == 1 and part.strip("_") else f"{part}_{_fingerprint(label)}"
        for label, part in parts.items()
    }


def _fingerprint(label: str) -> str:
    return blake2b(label.encode("utf-8", "surrogatepass"), digest_size=3).hexdigest()
