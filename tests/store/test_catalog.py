from dataclasses import replace

import pytest

from tests.store import samples
from tramontane.domain.catalog import WeightsFormat
from tramontane.store import catalog
from tramontane.store.db import NameTakenError, StaleError


def test_a_model_and_its_versions_come_back_as_they_were(database):
    model = samples.model(1)
    first = samples.model_version(1)
    second = samples.model_version(2, format=WeightsFormat.SAFETENSORS, parameters=None)

    def write(tx):
        catalog.insert_model(tx, model)
        catalog.insert_model(tx, samples.model(2))
        catalog.insert_model_version(tx, second)
        catalog.insert_model_version(tx, first)

    database.write(write)
    with database.read() as tx:
        assert catalog.get_model(tx, model.id) == model
        assert catalog.get_model(tx, "model-1") == model
        assert catalog.get_model(tx, "model-3") is None
        assert catalog.list_models(tx) == [model, samples.model(2)]
        assert catalog.list_model_versions(tx, model.id) == [first, second]
        assert catalog.latest_version(tx, model.id) == second
        assert catalog.latest_version(tx, samples.model(2).id) is None
        assert catalog.get_model_version(tx, first.id) == first
        assert catalog.get_model_version(tx, model.id) is None


def test_model_names_are_unique(database):
    database.write(lambda tx: catalog.insert_model(tx, samples.model(1)))
    with pytest.raises(NameTakenError, match="model name 'model-1' is taken"):
        database.write(lambda tx: catalog.insert_model(tx, samples.model(2, name="model-1")))


def test_two_versions_of_one_number_cannot_be(database):
    def write(tx):
        catalog.insert_model(tx, samples.model(1))
        catalog.insert_model_version(tx, samples.model_version(1))

    database.write(write)
    again = replace(samples.model_version(2), number=1)
    with pytest.raises(StaleError):
        database.write(lambda tx: catalog.insert_model_version(tx, again))


def test_a_deleted_model_leaves_no_version_and_is_deleted_once(database):
    model = samples.model(1)

    def write(tx):
        catalog.insert_model(tx, model)
        catalog.insert_model_version(tx, samples.model_version(1))

    database.write(write)
    database.write(lambda tx: catalog.delete_model(tx, model))
    with database.read() as tx:
        assert catalog.list_models(tx) == []
        assert catalog.list_model_versions(tx, model.id) == []
    with pytest.raises(StaleError, match="model"):
        database.write(lambda tx: catalog.delete_model(tx, model))


def test_a_stale_delete_removes_nothing(database):
    model = samples.model(1, revision=2)

    def write(tx):
        catalog.insert_model(tx, model)
        catalog.insert_model_version(tx, samples.model_version(1))

    database.write(write)
    with pytest.raises(StaleError):
        database.write(lambda tx: catalog.delete_model(tx, replace(model, revision=1)))
    with database.read() as tx:
        assert catalog.list_model_versions(tx, model.id) == [samples.model_version(1)]
