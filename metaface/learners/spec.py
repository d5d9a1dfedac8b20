"""What a trained learner is made of, so that a checkpoint can rebuild it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from metaface import _extensions, checkpoint, learners, nets
from metaface.data import IMAGE_SIZE
from metaface.learners import MetaLearner
from metaface.nets.weights import (
    is_safetensors,
    read_checkpoint,
    read_format,
    read_weights,
    save_weights,
)

_FORMAT = "metaface learner"  # in the metadata of what save_model writes


@dataclass(frozen=True)
class ModelSpec:
    """A learner and its embedding by name, and the photographs they take.

    Attributes:
        learner: its name; see ``metaface.learners.find``.
        options: keyword arguments of the learner; ``tune`` among them says which part of the
            embedding learns, see :func:`metaface.nets.set_trainable`.
        embedding: its name; see ``metaface.nets.build``.
        norm: ``group``, ``frozen`` or ``batch``.
        image_size: side of the square photographs, pixels.
        channels: 1 (grey) or 3 (RGB).
        crop: the centre crop the photographs were given; see ``metaface.data.load``.
        start_sha256: of the file of weights that the embedding started from; None: random ones.

    Example:
        >>> import metaface as mf
        >>> spec = mf.ModelSpec("maml", embedding="conv4-32", options={"inner_steps": 5})
        >>> type(spec.build()).__name__, spec.build().inner_steps
        ('MAML', 5)
    """

    learner: str
    options: dict[str, Any] = field(default_factory=dict)
    embedding: str = "conv4"
    norm: str = "group"
    image_size: int = IMAGE_SIZE
    channels: int = 3
    crop: float | None = None
    start_sha256: str | None = None

    def build(self, seed: int = 0, start: str | Path | None = None) -> MetaLearner:
        """A fresh learner. The embedding's initial weights depend on ``seed`` alone, so that
        different learners of one seed start from the same network.

        Args:
            seed: of the initial weights.
            start: weights the embedding starts from instead: a file of published weights, or a
                checkpoint of ``metaface train``.

        Raises:
            ValueError: weights of another network.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.embedding == "pixels":
                embedding: torch.nn.Module = nets.Pixels()
            else:
                embedding = nets.build(
                    self.embedding,
                    self.channels,
                    self.image_size,
                    self.norm,  # type: ignore[arg-type]
                )
            seen = None if start is None else _start(embedding, start, self)
            learner = learners.build(self.learner, embedding, **self.options)
        learner.trained_before = () if seen is None else (seen,)
        return learner


def find_former_options(learner: str, weights: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults that a learner had when its weights were made, where they are others today."""
    before = not any(name.endswith("head_step.rule") for name in weights)
    return {"inner_lr": 0.1} if before and learner.startswith("l2l-") else {}


def _start(embedding: torch.nn.Module, path: str | Path, spec: ModelSpec) -> dict[str, Any] | None:
    """Load the weights to start from; whom they were trained on, see :func:`read_seen`."""
    stored = read_model(path)
    if stored is not None:
        state = nets.merge_low_rank(rebuild_model(path, stored)[0].embedding).state_dict()
    else:
        state = read_weights(path)[0]
        if isinstance(embedding, nets.Columns):
            state = {f"net.{name}": tensor for name, tensor in state.items()}
    try:
        embedding.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the network {spec.embedding}: {error}") from error
    return stored and stored.get("seen")


def read_model(path: str | Path) -> dict[str, Any] | None:
    """What :func:`save_model` or training wrote: ``spec``, ``learner`` (the weights), of training
    ``best`` and ``seen`` as well; None: weights of another kind.

    Raises:
        ValueError: truncated, damaged, or a pickle that needs code to run.
        FileNotFoundError: no such file.
    """
    if is_safetensors(path):
        if read_format(path) != _FORMAT:
            return None
        weights, notes = read_weights(path)
        return {"spec": json.loads(notes["spec"]), "learner": weights}
    loaded = read_checkpoint(path)
    return loaded if isinstance(loaded, dict) and loaded.get("spec") else None


def read_seen(start: str | Path) -> dict[str, Any] | None:
    """Whom the weights in ``start`` were trained on, as ``FaceSet.unseen`` takes it.

    None where the file does not say: published weights, a model of :func:`save_model`, or a
    checkpoint of older times.
    """
    stored = read_model(start)
    return stored and stored.get("seen")


def save_model(path: str | Path, learner: MetaLearner, spec: ModelSpec) -> None:
    """Write a learner's weights and what rebuilds it; see :func:`load_model`.

    The file is safetensors, whatever its name: the weights, and in the metadata the spec (network,
    learner, photographs it takes) and a checksum of both.

    Raises:
        ValueError: a weight is not finite, or an option is neither number nor text.
        OSError: the folder cannot be written, or is full; ``path`` is as it was.

    Example:
        >>> import metaface as mf
        >>> spec = mf.ModelSpec("prototypical", embedding="conv4-32")
        >>> learner = spec.build()
        >>> mf.save_model("faces.safetensors", learner, spec)
    """
    if (weight := nets.find_not_finite(learner)) is not None:
        raise ValueError(f"{weight} holds infinite numbers or NaN: {path} is not written")
    try:
        notes = {"format": _FORMAT, "spec": json.dumps(asdict(spec), sort_keys=True)}
    except TypeError as error:
        raise ValueError(
            f"the options of {spec.learner} cannot be written: {error}; give numbers, text, lists "
            "and dicts of them"
        ) from error
    # copies, as two names may share their memory
    weights = {name: tensor.detach().clone() for name, tensor in learner.state_dict().items()}
    save_weights(path, weights, notes)


def load_model(path: str | Path) -> tuple[MetaLearner, ModelSpec]:
    """A trained learner from a checkpoint of ``metaface train`` or :func:`save_model`.

    The best weights by validation are used where there are any. A learner or network that is named
    ``package.module:Class`` must have been named in this process before the file names it (by
    ``metaface.learners.find`` or ``metaface.nets.find``), for a file may come from a stranger; what
    a package has registered need not.

    Raises:
        metaface.checkpoint.CheckpointError: unreadable, or without what rebuilds the learner.

    Example:
        >>> import metaface as mf
        >>> spec = mf.ModelSpec("prototypical", embedding="conv4-32")
        >>> mf.save_model("faces.safetensors", spec.build(), spec)
        >>> learner, spec = mf.load_model("faces.safetensors")
        >>> type(learner).__name__, spec.image_size, spec.channels
        ('Prototypical', 28, 3)
    """
    state = _read_state(path)
    if not state.get("spec"):
        raise checkpoint.CheckpointError(
            f"{path} does not say which learner it holds: train with spec=, or load it into a "
            "learner of your own with load_state_dict"
        )
    return rebuild_model(path, state)


def rebuild_model(path: str | Path, state: Mapping[str, Any]) -> tuple[MetaLearner, ModelSpec]:
    """:func:`load_model` of what :func:`read_model` read from ``path``.

    Raises:
        metaface.checkpoint.CheckpointError: as of :func:`load_model`.
    """
    try:
        spec = ModelSpec(**state["spec"])
        best = state.get("best")
        weights = best["learner"] if best else state["learner"]
        former = find_former_options(spec.learner, weights)
        spec = replace(spec, options={**former, **spec.options})
        with _extensions.reading_a_file():
            learner = spec.build()
        learner.load_state_dict(weights)
        learner.trained_before = (state["seen"],) if state.get("seen") else ()
        if (weight := nets.find_not_finite(learner)) is not None:
            raise ValueError(f"{weight} holds infinite numbers or NaN: train it again")
    except _extensions.NotNamedError as error:
        raise checkpoint.CheckpointError(f"{path}: {error}") from error
    except (AttributeError, KeyError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        raise checkpoint.CheckpointError(
            f"{path} does not hold the learner that it says it holds: {error!r}"
            if isinstance(error, KeyError)
            else f"{path} does not hold the learner that it says it holds: {error}"
        ) from error
    return learner, spec


def _read_state(path: str | Path) -> dict[str, Any]:
    """What the file of a learner holds; empty: weights that say of no learner.

    Raises:
        metaface.checkpoint.CheckpointError: unreadable.
    """
    if not (Path(path).is_file() and is_safetensors(path)):
        return checkpoint.load(path)
    try:
        return read_model(path) or {}
    except (ValueError, OSError) as error:
        raise checkpoint.CheckpointError(str(error)) from error
