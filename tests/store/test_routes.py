from dataclasses import replace

from tests.store import samples
from tramontane.store import routes


def test_before_the_first_there_is_none(database):
    with database.read() as tx:
        assert routes.current(tx) is None
        assert routes.current_revision(tx) == 0


def test_the_revision_grows_only_when_the_content_changes(database):
    table = samples.route_table(samples.route(1))
    first = database.write(lambda tx: routes.publish(tx, table))
    assert first == replace(table, revision=1)
    other_order = replace(table, keys=dict(reversed(table.keys.items())))
    assert database.write(lambda tx: routes.publish(tx, other_order)).revision == 1
    assert database.write(lambda tx: routes.publish(tx, replace(table, revision=77))) == first
    with database.read() as tx:
        assert routes.current(tx) == first

    changed = replace(table, routes=(samples.route(1, retry_after_s=3), samples.route(2)))
    second = database.write(lambda tx: routes.publish(tx, changed))
    assert second == replace(changed, revision=2)
    with database.read() as tx:
        assert routes.current(tx) == second
        assert routes.current_revision(tx) == 2
    assert database.write(lambda tx: routes.publish(tx, table)).revision == 3


def test_an_empty_table_is_a_table(database):
    empty = samples.route_table(keys={}, probe_deployment_id=None)
    published = database.write(lambda tx: routes.publish(tx, empty))
    with database.read() as tx:
        assert routes.current(tx) == published == replace(empty, revision=1)
