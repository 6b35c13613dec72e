"""The catalogue: import of right weights, of wrong ones, again, and of moved ones."""

import hashlib
import os
import pickle
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.cloud import Cloud
from tests.support.weights import (
    CONFIG,
    gguf_bytes,
    safetensors_bytes,
    write_gguf,
    write_safetensors,
)
from tramontane.domain.catalog import WeightsFormat
from tramontane.domain.refusal import Code, RefusedError
from tramontane.services.deployments.wishes import NewDeployment
from tramontane.services.models import IMPORTS_MAX, CatalogueEntry, Models
from tramontane.services.weights_files import inspect


def import_(cloud: Cloud, path: Path | str, name: str = "fresh", **given: str) -> CatalogueEntry:
    return cloud.services.models.import_weights(
        cloud.operator,
        name=name,
        path=str(path),
        **given,
    )


def refused(cloud: Cloud, path: Path | str, **given: str) -> tuple[Code, str | None, str]:
    """Import what must be refused without a trace and return code, field and message."""
    with cloud.unchanged(), pytest.raises(RefusedError) as error:
        import_(cloud, path, **given)
    refusal = error.value.refusal
    return refusal.code, refusal.param, refusal.message


def test_a_gguf_file(cloud: Cloud, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf")
    entry = import_(cloud, path)
    (version,) = entry.versions
    assert version.format is WeightsFormat.GGUF
    assert version.path == str(path)
    assert version.digest == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    assert version.size_bytes == path.stat().st_size
    assert (version.architecture, version.context_length) == ("llama", 512)
    assert (version.precision, version.parameters) == ("Q8_0", 64)
    assert (version.licence, version.number) == ("apache-2.0", 1)
    story = cloud.services.events.story(cloud.operator, entry.model.id, after=0, limit=10)
    assert [event.kind for event in story.items] == ["model.created", "model.imported"]


def test_a_safetensors_folder(cloud: Cloud, tmp_path: Path) -> None:
    folder = write_safetensors(tmp_path / "model")
    (folder / ".git").mkdir()
    (folder / ".git" / "hook.py").write_text("no part of the model")
    (version,) = import_(cloud, folder).versions
    lines = "".join(
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n"
        for name in ("README.md", "config.json", "model.safetensors", "tokenizer.json")
    )
    assert version.digest == f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"
    assert version.format is WeightsFormat.SAFETENSORS
    assert (version.architecture, version.context_length) == ("MistralForCausalLM", 2048)
    assert (version.precision, version.parameters, version.licence) == ("BF16", 36, "apache-2.0")
    assert version.size_bytes == sum(
        path.stat().st_size for path in folder.iterdir() if path.is_file()
    )


def test_shards_and_their_index(cloud: Cloud, tmp_path: Path) -> None:
    folder = write_safetensors(tmp_path / "model")
    other = {"model.c": {"dtype": "F32", "shape": [20], "data_offsets": [0, 80]}}
    (folder / "second.safetensors").write_bytes(safetensors_bytes(other))
    (folder / "consolidated.safetensors").write_bytes(safetensors_bytes(other))
    index = '{"weight_map": {"model.a": "model.safetensors", "model.c": "second.safetensors"}}'
    (folder / "model.safetensors.index.json").write_text(index)
    assert import_(cloud, folder).latest.parameters == 56
    (folder / "second.safetensors").unlink()
    code, param, message = refused(cloud, folder)
    assert (code, param) == (Code.UNSUPPORTED_FORMAT, "path")
    assert "second.safetensors" in message


def test_links_are_resolved(cloud: Cloud, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "real.gguf")
    link = tmp_path / "link.gguf"
    link.symlink_to(path)
    assert import_(cloud, link).latest.path == str(path)
    blobs = write_safetensors(tmp_path / "blobs")
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(file)
    assert (
        import_(cloud, snapshot, "linked").latest.digest == import_(cloud, blobs, "x").latest.digest
    )


def test_again_changes_nothing_and_other_weights_are_a_new_version(
    cloud: Cloud, tmp_path: Path
) -> None:
    first = write_gguf(tmp_path / "1.gguf")
    second = write_gguf(tmp_path / "2.gguf", llama__context_length=256)
    import_(cloud, first)
    with cloud.unchanged():
        assert import_(cloud, first).latest.number == 1
    assert import_(cloud, second).latest.number == 2
    with cloud.unchanged():
        entry = import_(cloud, first)
    assert [version.number for version in entry.versions] == [2, 1]


def test_moved_weights_are_a_new_version_at_the_new_place(cloud: Cloud, tmp_path: Path) -> None:
    first = write_gguf(tmp_path / "1.gguf")
    import_(cloud, first)
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(first.read_bytes())
    with cloud.unchanged():
        import_(cloud, copy)
    first.unlink()
    latest = import_(cloud, copy).latest
    assert (latest.number, latest.path) == (2, str(copy))


def test_the_expected_digest(cloud: Cloud, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf")
    found = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    wrong = "sha256:" + "0" * 64
    code, param, message = refused(cloud, path, digest=wrong)
    assert (code, param) == (Code.DIGEST_MISMATCH, "digest")
    assert found in message
    assert wrong in message
    assert import_(cloud, path, digest=found).latest.digest == found


def test_a_licence_is_needed(cloud: Cloud, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf", general__license=None)
    code, param, message = refused(cloud, path)
    assert (code, param) == (Code.MISSING_REQUIRED_PARAMETER, "licence")
    assert "--licence" in message
    assert import_(cloud, path, licence="MIT").latest.licence == "MIT"
    folder = write_safetensors(tmp_path / "folder", licence=None)
    assert refused(cloud, folder)[0] is Code.MISSING_REQUIRED_PARAMETER


def test_a_name_in_the_form_of_an_id(cloud: Cloud) -> None:
    name = cloud.ids.new("mdl")
    with cloud.unchanged(), pytest.raises(RefusedError, match="form of an id"):
        import_(cloud, cloud.demo_model, name)


def broken_gguf(folder: Path) -> Path:
    (folder / "a.gguf").write_bytes(gguf_bytes()[:-10])
    return folder / "a.gguf"


def text(folder: Path) -> Path:
    (folder / "a.gguf").write_text("not a model")
    return folder / "a.gguf"


def pickle_file(folder: Path) -> Path:
    (folder / "weights").write_bytes(pickle.dumps([1.0]))
    return folder / "weights"


def torch_zip(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "weights", "w") as archive:
        archive.writestr("data.pkl", pickle.dumps([1.0]))
    return folder / "weights"


def pickle_folder(folder: Path) -> Path:
    (write_safetensors(folder) / "pytorch_model.BIN").write_bytes(b"x")
    return folder


def nested_pickle(folder: Path) -> Path:
    (write_safetensors(folder) / "original").mkdir()
    (folder / "original" / "consolidated.00.pth").write_bytes(b"x")
    return folder


def code(folder: Path) -> Path:
    (write_safetensors(folder) / "modeling_evil.py").write_text("print('hello')")
    return folder


def one_safetensors(folder: Path) -> Path:
    return write_safetensors(folder) / "model.safetensors"


def no_config(folder: Path) -> Path:
    (write_safetensors(folder) / "config.json").unlink()
    return folder


def no_weights(folder: Path) -> Path:
    (write_safetensors(folder) / "model.safetensors").unlink()
    return folder


def broken_shard(folder: Path) -> Path:
    (write_safetensors(folder) / "model.safetensors").write_bytes(safetensors_bytes()[:-1])
    return folder


def huge_config(folder: Path) -> Path:
    padding = " " * (2 << 20)
    (write_safetensors(folder) / "config.json").write_text(str(CONFIG).replace("'", '"') + padding)
    return folder


def endless_index(folder: Path) -> Path:
    (write_safetensors(folder) / "model.safetensors.index.json").write_text("[" * 100_000)
    return folder


FORMAT, VALUE = Code.UNSUPPORTED_FORMAT, Code.INVALID_VALUE
WRONG: dict[str, tuple[Callable[[Path], Path], Code, str]] = {
    "cut short": (broken_gguf, FORMAT, "cut short"),
    "text": (text, FORMAT, "neither a GGUF file"),
    "pickle": (pickle_file, FORMAT, "is a pickle"),
    "torch.save": (torch_zip, FORMAT, "is a pickle"),
    "folder with a pickle": (pickle_folder, FORMAT, "pytorch_model.BIN is a pickle"),
    "pickle further down": (nested_pickle, FORMAT, "original/consolidated.00.pth is a pickle"),
    "folder with code": (code, FORMAT, "modeling_evil.py is code"),
    "one safetensors file": (one_safetensors, FORMAT, "give the folder"),
    "no config": (no_config, FORMAT, "no config.json"),
    "no weights": (no_weights, FORMAT, "no .safetensors"),
    "shard cut short": (broken_shard, FORMAT, "model.safetensors: it is cut short"),
    "huge config": (huge_config, FORMAT, "config.json is longer"),
    "hostile index": (endless_index, FORMAT, "index.json is not JSON"),
    "empty folder": (lambda folder: folder, FORMAT, "no .safetensors"),
    "nothing": (lambda folder: folder / "none.gguf", VALUE, "No such file"),
    "device": (lambda _: Path("/dev/zero"), VALUE, "neither a regular file"),
    "a file as a folder": (lambda folder: text(folder) / "x.gguf", VALUE, "Not a directory"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_refused(cloud: Cloud, tmp_path: Path, case: str) -> None:
    make, expected, told = WRONG[case]
    folder = tmp_path / "wrong"
    folder.mkdir()
    code, param, message = refused(cloud, make(folder))
    assert (code, param) == (expected, "path")
    assert told in message
    assert "path" in message


@pytest.mark.parametrize(
    "path", ["model.gguf", "../model.gguf", "~/model.gguf", "/a\0b", "/\ud800"]
)
def test_paths_that_are_none(cloud: Cloud, path: str) -> None:
    code, param, _ = refused(cloud, path)
    assert (code, param) == (VALUE, "path")


def test_a_pipe_does_not_hold_up_the_import(cloud: Cloud, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "neither a regular file" in refused(cloud, tmp_path / "pipe")[2]


def test_links_in_a_circle(cloud: Cloud, tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert refused(cloud, tmp_path / "a")[0] is VALUE
    folder = write_safetensors(tmp_path / "model")
    (folder / "round").symlink_to(folder)
    assert "link to a folder" in refused(cloud, folder)[2]


def test_unreadable_weights(cloud: Cloud, tmp_path: Path) -> None:
    folder = write_safetensors(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("/proc/self/mem")
    assert refused(cloud, folder)[1] == "path"


def test_only_below_the_models_folder(cloud: Cloud, tmp_path: Path) -> None:
    root = tmp_path / "models"
    inside = write_gguf((root / "sub").mkdir(parents=True) or root / "sub" / "a.gguf")
    outside = write_gguf(tmp_path / "b.gguf")
    (root / "link.gguf").symlink_to(outside)
    (root / "link").symlink_to(tmp_path)
    models = Models(cloud.db, cloud.clock, cloud.ids, root)
    for path in (outside, root / "link.gguf", root / "link" / "b.gguf", root / ".." / "b.gguf"):
        with cloud.unchanged(), pytest.raises(RefusedError, match="does not lie below"):
            models.import_weights(cloud.operator, name="x", path=str(path))
    with pytest.raises(RefusedError, match="does not lie below"):
        models.import_weights(cloud.operator, name="x", path="/etc/no-such-file")
    folder = write_safetensors(root / "folder")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(outside)
    with pytest.raises(RefusedError, match="does not lie below"):
        models.import_weights(cloud.operator, name="x", path=str(folder))
    assert models.import_weights(cloud.operator, name="x", path=str(inside)).latest.number == 1
    shipped = models.import_weights(cloud.operator, name="y", path=str(outside), is_shipped=True)
    assert shipped.latest.path == str(outside)


def test_a_file_that_changes_while_it_is_read(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_gguf(tmp_path / "a.gguf")
    real = os.pread

    def pread(descriptor: int, length: int, offset: int) -> bytes:
        with path.open("ab") as file:
            file.write(b"more")
        return real(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", pread)
    with pytest.raises(RefusedError) as error:
        inspect(str(path), None)
    assert error.value.refusal.code is Code.CONFLICT


def test_a_folder_that_vanishes_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_safetensors(tmp_path / "model")
    real = os.open

    def open_(path: Path, flags: int) -> int:
        (folder / "tokenizer.json").unlink(missing_ok=True)
        return real(path, flags)

    monkeypatch.setattr(os, "open", open_)
    with pytest.raises(RefusedError, match="No such file"):
        inspect(str(folder), None)


def test_no_more_than_a_few_imports_at_a_time(cloud: Cloud, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    models = cloud.services.models
    for _ in range(IMPORTS_MAX):
        assert models._imports.acquire(blocking=False)
    code, _, message = refused(cloud, cloud.demo_model)
    assert code is Code.UNAVAILABLE
    assert "try again" in message
    models._imports.release()
    import_(cloud, cloud.demo_model)


def test_two_imports_of_one_name_at_a_time(cloud: Cloud, tmp_path: Path) -> None:
    paths = [write_gguf(tmp_path / f"{n}.gguf", llama__context_length=n) for n in (100, 200)]
    threads = [threading.Thread(target=import_, args=(cloud, path)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(it.number for it in cloud.services.models.get("fresh").versions) == [1, 2]


def test_deleting(cloud: Cloud, tmp_path: Path) -> None:
    import_(cloud, write_gguf(tmp_path / "a.gguf"))
    made = cloud.services.deployments.create(cloud.member, NewDeployment("chat", "fresh"))
    with cloud.unchanged(), pytest.raises(RefusedError) as error:
        cloud.services.models.delete(cloud.operator, "fresh")
    assert error.value.refusal.code is Code.IN_USE
    cloud.services.deployments.delete(cloud.member, "chat", None)
    with pytest.raises(RefusedError):
        cloud.services.models.delete(cloud.operator, "fresh")
    cloud.stop(made.deployment.id)
    cloud.services.models.delete(cloud.operator, "fresh")
    with pytest.raises(RefusedError) as error:
        cloud.services.models.get("fresh")
    assert error.value.refusal.code is Code.NOT_FOUND
    assert (tmp_path / "a.gguf").exists()
