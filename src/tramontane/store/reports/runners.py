"""The last word of each runner that reports over HTTP: one row per replica or attempt."""

from collections.abc import Collection
from typing import Any, Final

from sqlalchemy import delete, select

from tramontane.domain.jobs.attempt import AttemptState
from tramontane.domain.observation import RunState
from tramontane.domain.report import RunnerReport
from tramontane.store.db import AnyRow, Transaction
from tramontane.store.tables import (
    id_column,
    int_column,
    int_or_null,
    make_table,
    text_column,
    text_or_null,
)

runner_reports: Final = make_table(
    "runner_reports",
    id_column(),
    text_column("run_state"),
    int_column("at_ms"),
    text_or_null("address"),
    text_or_null("reason"),
    int_or_null("requests_running"),
    int_or_null("requests_waiting"),
    int_or_null("exit_code"),
    text_or_null("outcome"),
    text_or_null("node_name"),
    int_column("received_at_ms"),
)


def get(tx: Transaction, id_: str) -> RunnerReport | None:
    """Return what the runner of replica or attempt ``id_`` said last."""
    row = tx.execute(select(runner_reports).where(runner_reports.c.id == id_)).one_or_none()
    return _report(row) if row else None


def put(tx: Transaction, report: RunnerReport, now_ms: int) -> None:
    """Replace what that runner said before."""
    values: dict[str, Any] = {
        "run_state": report.run_state.value,
        "at_ms": report.at_ms,
        "address": report.address,
        "reason": report.reason,
        "requests_running": report.requests_running,
        "requests_waiting": report.requests_waiting,
        "exit_code": report.exit_code,
        "outcome": report.outcome.value if report.outcome else None,
        "node_name": report.node_name,
        "received_at_ms": now_ms,
    }
    statement = tx.insert(runner_reports).values({"id": report.id, **values})
    tx.execute(statement.on_conflict_do_update(index_elements=("id",), set_=values))


def list_of(tx: Transaction, prefix: str) -> dict[str, RunnerReport]:
    """Return all reports on ids of one kind, such as ``rep``, by id."""
    is_of_kind = runner_reports.c.id.startswith(f"{prefix}_", autoescape=True)
    rows = tx.execute(select(runner_reports).where(is_of_kind).order_by(runner_reports.c.id))
    return {row.id: _report(row) for row in rows}


def delete_all(tx: Transaction, ids: Collection[str]) -> int:
    """Forget what those runners said; return how many had said something."""
    if not ids:
        return 0
    return tx.execute(delete(runner_reports).where(runner_reports.c.id.in_(ids))).rowcount


def _report(row: AnyRow) -> RunnerReport:
    return RunnerReport(
        id=row.id,
        run_state=RunState(row.run_state),
        at_ms=row.at_ms,
        address=row.address,
        reason=row.reason,
        requests_running=row.requests_running,
        requests_waiting=row.requests_waiting,
        exit_code=row.exit_code,
        outcome=AttemptState(row.outcome) if row.outcome else None,
        node_name=row.node_name,
    )
