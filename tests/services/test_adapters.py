"""Adapters in the catalogue and on deployments: what is checked, and whose names they are."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.cloud import Cloud
from tests.support.random_adapter import write_random_adapter
from tests.support.random_gguf import write_random_encoder, write_random_gguf
from tests.support.weights import CONFIG, safetensors_bytes, write_gguf
from tramontane.domain.catalog import UNKNOWN, VersionKind
from tramontane.domain.deployment import SpecChange
from tramontane.domain.refusal import Code, RefusedError
from tramontane.services.deployments.wishes import CanaryWish, DescribedDeployment, NewDeployment
from tramontane.services.models import CatalogueEntry
from tramontane.store import catalog

LORA = {"peft_type": "LORA", "r": 2, "bias": "none"}


def import_(cloud: Cloud, name: str, path: Path, **given: str) -> CatalogueEntry:
    given = {"licence": "mit", **given}
    return cloud.services.models.import_weights(cloud.operator, name=name, path=str(path), **given)


def create(cloud: Cloud, name: str, **wish: Any) -> DescribedDeployment:
    given = NewDeployment(**{"name": name, "model": "base"} | wish)
    return cloud.services.deployments.create(cloud.member, given)


def change(cloud: Cloud, ref: str, **fields: Any) -> DescribedDeployment:
    return cloud.services.deployments.change(cloud.member, ref, SpecChange(**fields))


def refused(doing: Any, *given: Any, **named: Any) -> tuple[Code, str | None, str]:
    with pytest.raises(RefusedError) as error:
        doing(*given, **named)
    it = error.value.refusal
    return it.code, it.param, it.message


def safetensors_of(shapes: dict[str, list[int]]) -> bytes:
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 4 * shape[0] * shape[1]
        span = [offset, offset + size]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": span}
        offset += size
    return safetensors_bytes(header, bytes(offset))


def write_peft(folder: Path, *, inputs: int = 8, **config: object) -> Path:
    folder.mkdir()
    halves = {"A": [2, inputs], "B": [4, 2]}
    shapes = {f"base_model.model.q.lora_{half}.weight": shape for half, shape in halves.items()}
    (folder / "adapter_model.safetensors").write_bytes(safetensors_of(shapes))
    (folder / "adapter_config.json").write_text(json.dumps(LORA | config))
    return folder


def write_folder(folder: Path, **files: object) -> Path:
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(safetensors_of({"q.weight": [4, 8]}))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def stocked(cloud: Cloud, tmp_path: Path) -> Cloud:
    """A catalogue with a model, ``base``, and two adapters of it, ``first`` and ``second``."""
    import_(cloud, "base", write_random_gguf(tmp_path / "base.gguf"))
    for seed, name in enumerate(("first", "second")):
        path = write_random_adapter(tmp_path / f"{name}.gguf", seed)
        import_(cloud, name, path, base="base")
    return cloud


def test_an_adapter_is_imported_with_its_base(stocked: Cloud):
    base, first = stocked.services.models.get("base"), stocked.services.models.get("first").latest
    assert (first.kind, first.base_model_id) == (VersionKind.ADAPTER, base.model.id)
    assert (first.adapter_rank, first.context_length) == (4, base.latest.context_length)
    assert base.latest.kind is VersionKind.MODEL
    assert base.latest.capabilities.chats is True


def test_what_is_no_adapter_of_the_base_is_refused(stocked: Cloud, tmp_path: Path):
    adapter = tmp_path / "first.gguf"
    other = import_(stocked, "other", write_gguf(tmp_path / "other.gguf"))
    encoder = write_random_encoder(tmp_path / "encoder.gguf")
    import_(stocked, "encoder", encoder)
    for given, code, param, word in [
        ({}, Code.MISSING_REQUIRED_PARAMETER, "base", "--base"),
        ({"base": "nowhere"}, Code.MODEL_NOT_FOUND, "base", "nowhere"),
        ({"base": "second"}, Code.INVALID_VALUE, "base", "an adapter itself"),
        ({"base": "other"}, Code.INVALID_VALUE, "base", "the base model has not"),
        ({"base": "encoder"}, Code.INVALID_VALUE, "base", "the base model is bert"),
    ]:
        found = refused(import_, stocked, "fresh", adapter, **given)
        assert found[:2] == (code, param)
        assert word in found[2]
    model = Path(other.latest.path)
    assert refused(import_, stocked, "fresh", model, base="base")[:2] == (
        Code.INVALID_VALUE,
        "base",
    )
    taken = refused(import_, stocked, "base", adapter, base="base")
    assert taken[:2] == (Code.CONFLICT, "name")
    assert refused(import_, stocked, "first", model)[:2] == (Code.CONFLICT, "name")


def test_pefts_folder_and_what_a_folder_tells(cloud: Cloud, tmp_path: Path):
    template = {"chat_template": "{{ x }}"}
    base = import_(cloud, "base", write_folder(tmp_path / "b", tokenizer_config=template))
    told = base.latest.capabilities
    assert (told.generates, told.chats) == (True, True)
    adapter = import_(cloud, "peft", write_peft(tmp_path / "good"), base="base").latest
    assert (adapter.adapter_rank, adapter.architecture) == (2, base.latest.architecture)
    made = create(cloud, "chat", devices=1, adapters=(("legal", "peft"),)).deployment
    assert made.spec.adapters[0].name == "legal"
    wide = refused(import_, cloud, "wide", write_peft(tmp_path / "wide", inputs=16), base="base")
    assert "16 x 4" in wide[2]
    dora = refused(import_, cloud, "d", write_peft(tmp_path / "dora", use_dora=True), base="base")
    assert dora[:2] == (Code.UNSUPPORTED_FORMAT, "path")
    (write_peft(tmp_path / "cut") / "adapter_model.safetensors").unlink()
    assert "copy the folder" in refused(import_, cloud, "c", tmp_path / "cut", base="base")[2]
    import_(cloud, "odd", write_peft(tmp_path / "odd,name"), base="base")
    assert "no comma" in refused(change, cloud, "chat", adapters=(("odd", "odd"),))[2]


def test_names_are_taken_once_in_a_project(stocked: Cloud):
    made = create(stocked, "chat", adapters=(("two", "second"), ("one", "first:1"))).deployment
    assert [it.name for it in made.spec.adapters] == ["one", "two"]
    for wish in (
        {"name": "one"},
        {"name": "new", "adapters": (("one", "first"),)},
        {"name": "new", "adapters": (("chat", "first"),)},
        {"name": "new", "adapters": (("new", "first"),)},
    ):
        assert refused(create, stocked, **wish)[0] is Code.NAME_TAKEN
    create(stocked, "other")
    taken = refused(change, stocked, "other", adapters=(("two", "second"),))
    assert taken[:2] == (Code.NAME_TAKEN, "adapters")
    assert refused(change, stocked, "other", adapters=(("Two!", "second"),))[1] == "adapters"
    stocked.services.deployments.delete(stocked.member, "chat", None)
    change(stocked, "other", adapters=(("two", "second"),))


def test_a_change_of_adapters_needs_new_replicas(stocked: Cloud):
    create(stocked, "chat")
    made = change(stocked, "chat", adapters=(("one", "first"),))
    assert made.deployment.generation == 2
    assert [(it.spec.name, it.model_name, it.model_number) for it in made.adapters] == [
        ("one", "first", 1)
    ]
    same = change(stocked, "chat", adapters=(("one", "first:1"),))
    assert same.deployment.generation == 2
    assert change(stocked, "chat", adapters=()).deployment.spec.adapters == ()


def test_adapters_of_another_model_and_adapters_alone_are_refused(stocked: Cloud, tmp_path: Path):
    create(stocked, "chat", model="tramontane-demo")
    wrong = refused(change, stocked, "chat", adapters=(("one", "first"),))
    assert wrong[:2] == (Code.INVALID_VALUE, "adapters")
    assert "for another model" in wrong[2]
    assert "no adapter" in refused(change, stocked, "chat", adapters=(("one", "base"),))[2]
    assert refused(create, stocked, "alone", model="first")[:2] == (Code.INVALID_VALUE, "model")
    many = tuple((f"a{number}", "first") for number in range(33))
    assert "at most 32" in refused(create, stocked, "many", adapters=many)[2]


def test_what_is_in_use_stays_in_the_catalogue(stocked: Cloud):
    create(stocked, "chat", adapters=(("one", "first"),))
    delete = stocked.services.models.delete
    assert refused(delete, stocked.operator, "first")[0] is Code.IN_USE
    delete(stocked.operator, "second")
    change(stocked, "chat", adapters=())
    stocked.services.deployments.delete(stocked.member, "chat", None)
    assert refused(delete, stocked.operator, "base")[0] is Code.IN_USE


def test_a_canary_has_no_adapters_and_no_name_of_one(stocked: Cloud):
    create(stocked, "chat", adapters=(("one", "first"),))
    start = stocked.services.canaries.set
    told = start(stocked.member, "chat", CanaryWish(percent=10))
    assert told.canary is not None
    assert told.canary.spec.adapters == ()
    wrong = refused(change, stocked, told.canary.name, adapters=(("two", "second"),))
    assert wrong[:2] == (Code.CONFLICT, "adapters")
    promoted = stocked.services.canaries.end(stocked.member, "chat", promote=True)
    assert [it.name for it in promoted.deployment.spec.adapters] == ["one"]
    create(stocked, "other")
    wish = CanaryWish(percent=10, name="one")
    assert refused(start, stocked.member, "other", wish)[:2] == (Code.NAME_TAKEN, "name")


def test_weights_that_an_older_version_read_are_read_again(stocked: Cloud, tmp_path: Path):
    version = stocked.services.models.get("base").latest
    stocked.db.write(lambda tx: catalog.set_capabilities(tx, version.id, UNKNOWN))
    assert stocked.services.models.get("base").latest.capabilities == UNKNOWN
    again = import_(stocked, "base", tmp_path / "base.gguf")
    assert len(again.versions) == 1
    assert again.latest == version
