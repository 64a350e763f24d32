"""Which model wrote an answer: a fingerprint of its files, so that a name or a path that is used again is noticed.

Two models of one name (``runs/A/model`` and ``runs/B/model``), or two trainings into one folder, have different
fingerprints; a folder that was only moved keeps its own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WHOLE_BYTES = 64 << 20
"""Files up to this size are hashed whole; of larger weights, the size, the modification time and the header."""

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
_SETTINGS = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".py")
_NOT_THE_MODEL = re.compile(r"training_args|optimizer|scheduler|scaler|rng_state|trainer_state|all_results|\.metadata")
# Folder names that say nothing about a model: left out of its label, or kept with the name of the run above.
_DROPPED = {"model", "checkpoints"}
_OF_A_RUN = re.compile(r"(checkpoint|step|global_step|seed)[-_]?\d+|sft|grpo|rl|merged|final|best|last|latest")


def model_identity(path_or_id: str | Path, *, revision: str | None = None) -> dict[str, Any]:
    """Where a model comes from and the fingerprint of its files.

    Args:
        path_or_id: a folder made by ``save_pretrained``, or an id on the hub.
        revision: of the hub's model.

    Returns:
        ``{path, fingerprint}`` of a folder; ``{id, revision}`` of the hub's, the revision being the commit's hash where
        it can be had. `same_model` compares two of them.
    """
    path = Path(path_or_id)
    if path.is_dir():
        return {"path": str(path.resolve()), "fingerprint": fingerprint(path)}
    return {"id": str(path_or_id), "revision": _commit(str(path_or_id), revision) or revision}


def same_model(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None) -> bool:
    """Whether two identities are of the same weights; False where one is not known. The place does not matter."""
    if not a or not b:
        return False
    return weights_of(a) == weights_of(b)


def weights_of(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an identity that is compared.

    A folder that was moved, or a server that was started elsewhere with the same ``root``, has the same weights.
    """
    if "fingerprint" in identity:
        return {"fingerprint": identity["fingerprint"]}
    if "root" in identity:
        return {"root": identity["root"]}
    return dict(sorted(identity.items()))


def fingerprint(folder: Path) -> str:
    """16 hexadecimal digits for weights, configuration, tokenizer and processor files.

    Fast for any size: see `WHOLE_BYTES`.
    """
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if not file.is_file() or file.name.startswith(".") or _NOT_THE_MODEL.search(file.name):
            continue
        if file.suffix in _WEIGHTS or file.suffix in _SETTINGS:
            digest.update(f"{file.name}\0{_file_digest(file)}\n".encode())
    return digest.hexdigest()[:16]


def file_identity(file: Path) -> dict[str, Any]:
    """Of saved answers, which stand for the model that wrote them: their place and a digest."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.is_file() else ""
    return {"responses": str(file.resolve()), "fingerprint": digest}


def model_label(path_or_id: str | Path) -> str:
    """What people call a model: the hub's id, or the name of its folder, of the run's where that says nothing.

    Example:
        >>> model_label("/data/runs/counting-a/model"), model_label("/data/runs/b/grpo/checkpoints/checkpoint-50")
        ('counting-a', 'b-grpo-checkpoint-50')
        >>> model_label("Qwen/Qwen2.5-VL-3B-Instruct")
        'Qwen/Qwen2.5-VL-3B-Instruct'
    """
    path = Path(path_or_id)
    if not path.exists() and not path.is_absolute():
        return str(path_or_id)
    path = path.absolute()
    if path.parent.name == "snapshots":  # the hub's cache: models--OWNER--NAME/snapshots/COMMIT
        return path.parent.parent.name.removeprefix("models--").replace("--", "/")
    kept: list[str] = []
    for name in (path.name, *(parent.name for parent in path.parents)):
        if name in _DROPPED:
            continue
        kept.insert(0, name)
        if not _OF_A_RUN.fullmatch(name):
            break
    return "-".join(part for part in kept if part) or path.name


def served_identity(url: str, model: str, listed: Mapping[str, Any] | None) -> dict[str, Any]:
    """The identity of a model behind a server.

    Args:
        url: the server's address.
        model: the name that it is asked by.
        listed: its entry in ``/v1/models``; None where the server has no such list. Its ``root`` is the path or id of
            the weights (vLLM, SGLang). ``created`` is not used: there it is the time of the question.
    """
    found: dict[str, Any] = {"server": url, "model": model}
    root = (listed or {}).get("root")
    if isinstance(root, str) and root:
        found["root"] = root
        folder = Path(root)  # a server on this machine, or on a disk that it shares
        if folder.is_absolute() and folder.is_dir():
            found["fingerprint"] = fingerprint(folder)
    return found


def shown_identity(identity: Mapping[str, Any]) -> str:
    """One line for a reader."""
    places = (identity.get(key) for key in ("path", "id", "responses"))
    place = next(filter(None, places), None) or f"{identity.get('model')} at {identity.get('server')}"
    marks = [str(identity[key]) for key in ("root", "revision", "fingerprint") if identity.get(key)]
    return f"{place} ({', '.join(marks)})" if marks else str(place)


def identity_tag(identity: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits that tell an identity from others, for the name of a folder."""
    return hashlib.sha256(repr(weights_of(identity)).encode()).hexdigest()[:8]


def _file_digest(file: Path) -> str:
    size = file.stat().st_size
    if size <= WHOLE_BYTES:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    header = b""
    if file.suffix == ".safetensors":
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = stream.read(min(length, WHOLE_BYTES))
    return f"{size} {file.stat().st_mtime_ns} {hashlib.sha256(header).hexdigest()}"


def _commit(repo: str, revision: str | None) -> str | None:
    """The commit of a model on the hub: that of its cached configuration, which is fetched if need be."""
    try:
        from huggingface_hub import hf_hub_download

        path = Path(hf_hub_download(repo, "config.json", revision=revision))
    except Exception:  # offline and not cached, a wrong name: loading the model says what is the matter
        return None
    return path.parent.name if path.parent.parent.name == "snapshots" else None
