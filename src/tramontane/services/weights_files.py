"""Reads weights from disk for the catalogue: what may be served, its digest and its facts.

A path is operator's input about a file system that others may write to. So: symbolic links are
resolved before anything is checked, only regular files are opened, a file that changes while it is
read is refused, and nothing in a folder is ever executed or unpickled. Files whose names begin with
a dot (such as `.git`) are no part of a model and are left out.
"""

import hashlib
import os
import stat
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tramontane.domain.catalog import ModelVersion, WeightsFormat
from tramontane.domain.refusal import Code, RefusedError, refuse
from tramontane.domain.weights import gguf, lora, safetensors
from tramontane.domain.weights.facts import MalformedWeightsError, WeightsFacts

BLOCK_BYTES: Final = 8 << 20
FILES_MAX: Final = 10_000  # the largest sharded models have about 200
DEPTH_MAX: Final = 8
CARD_BYTES_MAX: Final = 64 << 10  # of a model card; its front matter is at its beginning

# Formats that run code when they are read (PyTorch CVE-2025-32434), and code itself.
PICKLE_SUFFIXES: Final = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"})
CODE_SUFFIXES: Final = frozenset({".py", ".pyc", ".so", ".sh"})
_ZIP_MAGIC: Final = b"PK\x03\x04"  # what torch.save writes
_PICKLE_MAGIC: Final = b"\x80"
_INDEX: Final = "model.safetensors.index.json"
_TOKENIZER_CONFIG: Final = "tokenizer_config.json"
# What PEFT's save_pretrained writes.
_ADAPTER_CONFIG: Final = "adapter_config.json"
_ADAPTER: Final = "adapter_model.safetensors"


@dataclass(frozen=True, slots=True)
class InspectedWeights:
    """Weights that may be served. ``path`` is resolved; ``digest`` is ``sha256:<hex>``."""

    path: str
    digest: str
    size_bytes: int
    facts: WeightsFacts


def inspect(path: str, root: Path | None) -> InspectedWeights:
    """Read the GGUF file or safetensors folder at ``path``, all of it, and return what it is.

    ``root``, if set, is the folder that models must lie in. Takes as long as reading the weights
    does: never call it in a transaction. Every refusal names the field ``path``.
    """
    try:
        resolved = _resolve(path, root)
        if resolved.is_dir():
            return _inspect_folder(resolved, root)
        return _inspect_file(resolved)
    except MalformedWeightsError as error:
        message = f"the path {path} cannot be served: {error}"
        raise refuse(Code.UNSUPPORTED_FORMAT, message, param="path") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no usable path"
        message = (
            f"the path {path} cannot be read: {reason}; expected a GGUF file or a folder of "
            "safetensors files on this server, readable by the control plane"
        )
        raise refuse(Code.INVALID_VALUE, message, param="path") from error


class _OpenFile:
    """An open regular file as a `ByteSource`, with its digest."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor = descriptor
        self._path = path
        self._seen = os.fstat(descriptor)
        if not stat.S_ISREG(self._seen.st_mode):
            raise _unusable(path, "it is neither a regular file nor a folder")

    @property
    def size_bytes(self) -> int:
        return self._seen.st_size

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._descriptor, length, offset)

    def digest(self) -> str:
        """Return the SHA-256 as hex; refused when the file changed since it was opened.

        Reads no further than the size at the opening: a file that grows has no end.
        """
        hashing = hashlib.sha256()
        offset = 0
        while offset < self.size_bytes:
            block = self.read(offset, min(BLOCK_BYTES, self.size_bytes - offset))
            if not block:
                break
            hashing.update(block)
            offset += len(block)
        now = os.fstat(self._descriptor)
        if (now.st_size, now.st_mtime_ns) != (self._seen.st_size, self._seen.st_mtime_ns):
            message = (
                f"the path {self._path} changed while it was read: import it when it is complete"
            )
            raise refuse(Code.CONFLICT, message, param="path")
        return hashing.hexdigest()


@contextmanager
def _opened(path: Path) -> Generator[_OpenFile]:
    # O_NONBLOCK: opening a pipe must not wait for its writer; regular files ignore it.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        yield _OpenFile(descriptor, path)
    finally:
        os.close(descriptor)


def _resolve(path: str, root: Path | None) -> Path:
    """Return the real path, refused outside ``root``: before it is said whether it exists."""
    if not path.startswith("/"):
        message = f"the path {path} is not absolute: it must begin with / and lie on this server"
        raise refuse(Code.INVALID_VALUE, message, param="path")
    resolved = Path(os.path.realpath(path))
    if root is not None and not resolved.is_relative_to(os.path.realpath(root)):
        message = f"the path {path} does not lie below {root}, where this installation's models are"
        raise refuse(Code.INVALID_VALUE, message, param="path")
    resolved.stat()
    return resolved


def _inspect_file(path: Path) -> InspectedWeights:
    with _opened(path) as file:
        if not gguf.is_gguf(file):
            raise _not_weights(path, file.read(0, 4))
        facts = gguf.read_facts(file)
        return InspectedWeights(str(path), f"sha256:{file.digest()}", file.size_bytes, facts)


def _not_weights(path: Path, magic: bytes) -> RefusedError:
    if path.suffix == ".safetensors":
        return refuse(
            Code.UNSUPPORTED_FORMAT,
            f"the path {path} is one safetensors file: give the folder that holds it and "
            "its config.json",
            param="path",
        )
    if path.suffix in PICKLE_SUFFIXES or magic == _ZIP_MAGIC or magic[:1] == _PICKLE_MAGIC:
        return _pickle(path.name)
    return refuse(
        Code.UNSUPPORTED_FORMAT,
        f"the path {path} is neither a GGUF file nor a folder of safetensors files: "
        "convert the model to one of the two",
        param="path",
    )


def _pickle(name: str) -> RefusedError:
    return refuse(
        Code.UNSUPPORTED_FORMAT,
        f"at this path, {name} is a pickle, which runs code when it is loaded: convert "
        "the weights to safetensors (transformers: save_pretrained) and remove it",
        param="path",
    )


def check_adapter(weights: InspectedWeights, base: ModelVersion) -> None:
    """Refuse an adapter that does not fit the model ``base``; refusals name the field ``base``."""
    is_gguf = base.format is WeightsFormat.GGUF
    try:
        if weights.facts.format is not base.format:
            msg = f"it is {weights.facts.format} and the base model is {base.format}"
            raise MalformedWeightsError(msg)
        if is_gguf and weights.facts.architecture != base.architecture:
            msg = f"it is for {weights.facts.architecture}, the base model is {base.architecture}"
            raise MalformedWeightsError(msg)
        lora.check_fits(weights.facts.adapts or (), _shapes(base), is_gguf=is_gguf)
    except MalformedWeightsError as error:
        message = f"the adapter at {weights.path} does not fit its base model: {error}"
        raise refuse(Code.INVALID_VALUE, message, param="base") from error
    except OSError as error:
        message = f"the base model's weights cannot be read: {error.strerror}; import them again"
        raise refuse(Code.INVALID_VALUE, message, param="base") from error


def _shapes(base: ModelVersion) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors of weights that were imported before."""
    path = Path(base.path)
    if base.format is WeightsFormat.GGUF:
        with _opened(path) as file:
            return gguf.read_shapes(file)
    shapes: dict[str, tuple[int, ...]] = {}
    for name in sorted(_shards(path, _list_files(path))):
        with _opened(path / name) as file:
            shapes |= _header(name, file).shapes
    return shapes


def _inspect_folder(folder: Path, root: Path | None) -> InspectedWeights:
    names = _list_files(folder)
    is_adapter = _ADAPTER_CONFIG in names
    shards = _shards(folder, names)
    headers: list[safetensors.Header] = []
    lines: list[str] = []
    size_bytes = 0
    for name in names:
        resolved = _resolve(str(folder / name), root)
        with _opened(resolved) as file:
            if name in shards:
                headers.append(_header(name, file))
            size_bytes += file.size_bytes
            lines.append(f"{file.digest()}  {name}\n")
    card = _card(folder) if "README.md" in names else None
    if is_adapter:
        told = _small(folder, _ADAPTER_CONFIG, safetensors.CONFIG_BYTES_MAX)
        facts = safetensors.combine_adapter(headers[0], told, card)
    else:
        facts = _model_facts(folder, names, headers, card)
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    return InspectedWeights(str(folder), f"sha256:{digest}", size_bytes, facts)


def _model_facts(
    folder: Path, names: list[str], headers: list[safetensors.Header], card: str | None
) -> WeightsFacts:
    config = safetensors.read_config(_small(folder, "config.json", safetensors.CONFIG_BYTES_MAX))
    tokenizer: Mapping[str, object] = {}
    if _TOKENIZER_CONFIG in names:
        data = _small(folder, _TOKENIZER_CONFIG, safetensors.TOKENIZER_CONFIG_BYTES_MAX)
        tokenizer = safetensors.read_tokenizer_config(data)
    told = safetensors.capabilities_of(config, names, tokenizer)
    return safetensors.combine(headers, config, card, told)


def _list_files(folder: Path) -> list[str]:
    """Return the paths of all files below ``folder``, relative to it, in the order of their bytes.

    A linked folder is refused: it could lead round in a circle or out of the model.
    """
    found: list[str] = []
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        with os.scandir(current) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                elif entry.is_symlink() and entry.is_dir():
                    raise _unusable(Path(entry.path), "it is a link to a folder")
                else:
                    found.append(os.path.relpath(entry.path, folder))
                if len(found) + len(waiting) > FILES_MAX:
                    raise _unusable(folder, f"it holds more than {FILES_MAX} files")
        if len(current.relative_to(folder).parts) > DEPTH_MAX:
            raise _unusable(folder, f"its folders are nested deeper than {DEPTH_MAX}")
    if any(not name.isprintable() for name in found):
        raise _unusable(folder, "a file in it has an unprintable name")
    return sorted(found, key=str.encode)


def _shards(folder: Path, names: list[str]) -> frozenset[str]:
    """Return the files that hold the model: those of the index, or all that lie at the top."""
    _check_names(names)
    if _ADAPTER_CONFIG in names:
        if _ADAPTER in names:
            return frozenset({_ADAPTER})
        msg = f"it has {_ADAPTER_CONFIG} and no {_ADAPTER}: copy the folder completely"
        raise MalformedWeightsError(msg)
    top = frozenset(name for name in names if name.endswith(".safetensors") and "/" not in name)
    if not top or "config.json" not in names:
        missing = "config.json" if top else ".safetensors file"
        message = (
            f"the folder at this path holds no {missing}: expected config.json, tokenizer "
            "files and the .safetensors files of one model (for GGUF give the file itself)"
        )
        raise refuse(Code.UNSUPPORTED_FORMAT, message, param="path")
    if _INDEX not in names:
        return top
    index = safetensors.read_index(_small(folder, _INDEX, safetensors.INDEX_BYTES_MAX))
    missing = sorted(index - top)
    if missing or not index:
        first = f"names {missing[0][:100]!a}, which is not there" if missing else "names no file"
        msg = f"{_INDEX} {first}: copy the folder completely"
        raise MalformedWeightsError(msg)
    return index


def _check_names(names: list[str]) -> None:
    for name in names:
        suffix = Path(name).suffix.lower()
        if suffix in PICKLE_SUFFIXES:
            raise _pickle(name)
        if suffix in CODE_SUFFIXES:
            message = (
                f"at this path, {name} is code, and code from model repositories is never run: "
                "remove it; the engine has its own implementation of what it serves"
            )
            raise refuse(Code.UNSUPPORTED_FORMAT, message, param="path")


def _header(name: str, file: _OpenFile) -> safetensors.Header:
    try:
        return safetensors.read_header(file)
    except MalformedWeightsError as error:
        msg = f"{name}: {error}"
        raise MalformedWeightsError(msg) from error


def _card(folder: Path) -> str | None:
    with _opened(folder / "README.md") as file:
        text = file.read(0, CARD_BYTES_MAX).decode("utf-8", errors="replace")
    return safetensors.licence_of_card(text)


def _small(folder: Path, name: str, bytes_max: int) -> bytes:
    with _opened(folder / name) as file:
        if file.size_bytes > bytes_max:
            msg = f"{name} is longer than {bytes_max} bytes"
            raise MalformedWeightsError(msg)
        return file.read(0, bytes_max)


def _unusable(path: Path, why: str) -> RefusedError:
    message = f"the path {path} cannot be read: {why}; expected a GGUF file or a safetensors folder"
    return refuse(Code.INVALID_VALUE, message, param="path")
