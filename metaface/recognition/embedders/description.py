"""What is written down with imported weights: in a safetensors file's metadata, or beside an ONNX
file."""

from __future__ import annotations

import json
from dataclasses import dataclass

from metaface.recognition.preprocess import Preprocessing

KEY = "metaface"  # of the safetensors metadata


@dataclass(frozen=True)
class Description:
    """Attributes:
    architecture: ``mobilefacenet`` or ``onnx``.
    preprocessing: what the weights were trained with.
    origin_sha256: of the file they were imported from, hex; empty where it is not known.
    licence: as their publisher states it; empty where it is not known.
    """

    architecture: str
    preprocessing: Preprocessing
    origin_sha256: str = ""
    licence: str = ""

    def to_json(self) -> str:
        """A JSON object."""
        values = {**vars(self), "preprocessing": json.loads(self.preprocessing.to_json())}
        return json.dumps(values, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> Description:
        """The inverse of :meth:`to_json`.

        Raises:
            ValueError: not such JSON; what is wrong is named.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise ValueError(f"the description is no JSON ({error})") from error
        if not isinstance(values, dict) or not {"architecture", "preprocessing"} <= set(values):
            raise ValueError("the description has no architecture and preprocessing")
        texts = {n: values.get(n, "") for n in ("architecture", "origin_sha256", "licence")}
        if not all(isinstance(value, str) for value in texts.values()):
            raise ValueError(f"the description has something else than text in {texts}")
        return cls(
            preprocessing=Preprocessing.from_json(json.dumps(values["preprocessing"])), **texts
        )
