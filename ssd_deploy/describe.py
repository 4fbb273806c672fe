"""What a model is, read from what it says of itself; nothing is run."""

import dataclasses
from pathlib import Path
from typing import Any

from ssd_deploy.backends import choose_backend
from ssd_deploy.model_source import ModelSource, find_model
from ssd_train.networks.zoo import find_network, network_config
from ssd_train.printable import joined
from ssd_train.spec import DetectorSpec
from ssd_train.weights.load import stored_weights
from ssd_train.weights.thresholds_file import read_thresholds


def description_of(source: ModelSource) -> DetectorSpec:
    """Return what a detector expects and what its numbers mean, without loading it.

    Raises:
        BackendError, ModelError, NetworkError, WeightsError: it does not say.
    """
    model = source.file or source.address
    if model is not None:
        row = choose_backend(model)
        assert row.describe is not None  # see `Backend`
        return row.describe(model)
    config = network_config(str(source.network), source.class_names())
    weights = stored_weights(config.name, source.weights)
    return DetectorSpec(
        network=config.name,
        class_names=config.class_names,
        input_size=config.input_size,
        working_thresholds=read_thresholds(weights, config.class_names) if weights is not None else None,
    )


def describe(name: str) -> dict[str, Any]:
    """Return everything that a file, a run folder, a network or a served model says of itself, as plain values.

    Raises:
        BackendError, ModelError, NetworkError, WeightsError: as `find_model`, or the file is broken.
    """
    source = find_model(name)
    if source.file is not None:
        return _describe_file(source.file)
    if source.address is not None:
        return {"kind": "served", "address": source.name, **dataclasses.asdict(description_of(source))}
    row = find_network(str(source.network))
    known: dict[str, Any] = {
        "kind": "network" if source.weights == "published" else "weights",
        "network": row.name,
        "input_size": list(row.input_size),
        "anchors": row.num_anchors,
        "class_names": list(source.class_names() or row.class_names),
    }
    if isinstance(source.weights, Path):
        from ssd_train.weights.description import describe_weights

        of_file = dataclasses.asdict(describe_weights(source.weights))
        known |= {key: str(value) if isinstance(value, Path) else value for key, value in of_file.items()}
        known["size_bytes"] = source.weights.stat().st_size
        thresholds = read_thresholds(source.weights, known["class_names"], known["sha256"])
        if thresholds is not None:
            known["working_thresholds"] = dataclasses.asdict(thresholds)
        if Path(name).is_dir():
            known["run_folder"] = name
    return known


def _describe_file(path: Path) -> dict[str, Any]:
    from export.engine.file import is_engine, read_info
    from ssd_train.files import sha256_of_file

    if is_engine(path):
        return {"kind": "engine", "path": str(path), **dataclasses.asdict(read_info(path))}
    spec = description_of(ModelSource(name=str(path), file=path))
    about = {"kind": path.suffix.lower().removeprefix("."), "path": str(path), **dataclasses.asdict(spec)}
    if path.suffix.lower() == ".onnx":
        from export.file_metadata import describe_metadata
        from export.session import describe_exported

        about |= describe_metadata(describe_exported(path).metadata, str(path))
    return about | {"size_bytes": path.stat().st_size, "sha256": sha256_of_file(path)}


def describe_text(known: dict[str, Any]) -> str:
    """Return a description as lines of a name and a value."""
    lines = []
    for key, value in _flat(known):
        lines.append(f"{key.replace('_', ' ')}: {_shown(value)}")
    return joined(lines)


def _flat(known: dict[str, Any]) -> list[tuple[str, Any]]:
    """Take nested descriptions apart; what is empty says nothing."""
    pairs = []
    for key, value in known.items():
        if isinstance(value, dict) and key in ("spec", "postprocess", "options"):
            pairs += _flat(value)
        elif isinstance(value, dict) and key == "working_thresholds":
            pairs += _flat({f"working threshold, {name}": each for name, each in value.items()})
        elif value not in (None, "", (), [], {}):
            pairs.append((key, value))
    return pairs


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(each)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        text = ", ".join(map(_shown, value[:10]))
        return f"{len(value)}: {text}, ..." if len(value) > 10 else text
    return f"{value:g}" if isinstance(value, float) else str(value)
