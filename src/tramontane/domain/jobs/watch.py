"""From what clusters and their accounting say to what is recorded of attempts.

The rule of rules: a cluster that did not answer says nothing, and nothing is concluded from it.
"""

from dataclasses import replace
from typing import Final

from tramontane.domain.jobs.attempt import AttemptObservation, AttemptRecord, AttemptState
from tramontane.domain.jobs.job import TRANSITIONS, Attempt, AttemptStatus, device_seconds
from tramontane.domain.jobs.snapshot import Settle, Sightings
from tramontane.domain.observation import Unreachable

REASON_CHARS_MAX: Final = 4_000
# A driver lists what it accepted at once; who was asked this long and does not list it lost it.
UNLISTED_MS_MAX: Final = 300_000
# Accounting follows within seconds. What it never mentions after a day is counted as we saw it,
# and what never started, after ten minutes, as nothing.
UNACCOUNTED_MS_MAX: Final = 86_400_000
NEVER_STARTED_MS_MAX: Final = 600_000
# An estimate moves with each look of the scheduler; less than this, or than a part of the time
# until then, is no news.
ESTIMATE_MS_MIN: Final = 60_000
ESTIMATE_PART: Final = 4


def seen_now(attempt: Attempt, sightings: Sightings, now_ms: int) -> Attempt:
    """Return the attempt as it is now; the same value when nothing in it changed."""
    if attempt.status.is_over or isinstance(sightings.view_of(attempt), Unreachable):
        return attempt
    seen = sightings.observation(attempt)
    if seen is not None:
        return _observed(attempt, seen, now_ms)
    record = sightings.record(attempt)
    if record is not None:
        return _recorded(attempt, record, now_ms)
    if sightings.is_on_lost_node(attempt):
        return ended(attempt, AttemptStatus.NODE_FAILED, "its node was lost", now_ms)
    if attempt.status is not AttemptStatus.PENDING:
        why = "it is gone: its cluster does not know it"
        return ended(attempt, AttemptStatus.NODE_FAILED, why, now_ms)
    if now_ms - attempt.created_at_ms > UNLISTED_MS_MAX:
        why = "its cluster was asked to start it, and never listed it"
        return ended(attempt, AttemptStatus.NODE_FAILED, why, now_ms)
    return attempt


def ended(attempt: Attempt, to: AttemptStatus, reason: str, now_ms: int) -> Attempt:
    """Return the attempt as over, by our own conclusion."""
    return replace(
        attempt,
        status=to,
        reason=reason[-REASON_CHARS_MAX:],
        ended_at_ms=now_ms,
        changed_at_ms=now_ms,
        starts_at_ms=None,
    )


def settled(attempt: Attempt, record: AttemptRecord | None, now_ms: int) -> Settle | None:
    """Return what is to be recorded of the cost of an attempt that is over, None for not yet."""
    if record is not None:
        charged_to_ms = record.ended_at_ms - record.suspended_ms
        new = replace(
            attempt,
            started_at_ms=record.started_at_ms,
            ended_at_ms=record.ended_at_ms,
            devices=record.devices,
            device_seconds=device_seconds(record.devices, record.started_at_ms, charged_to_ms),
            external_id=record.external_id,
            is_accounted=True,
        )
        return Settle(attempt, new, is_certain=True)
    patience_ms = NEVER_STARTED_MS_MAX if attempt.started_at_ms is None else UNACCOUNTED_MS_MAX
    if now_ms - attempt.changed_at_ms <= patience_ms:
        return None
    used = device_seconds(attempt.devices, attempt.started_at_ms, attempt.ended_at_ms)
    return Settle(
        attempt, replace(attempt, device_seconds=used, is_accounted=True), is_certain=False
    )


def _observed(attempt: Attempt, seen: AttemptObservation, now_ms: int) -> Attempt:
    status = AttemptStatus(seen.state.value)
    if status is not attempt.status and status not in TRANSITIONS[attempt.status]:
        return attempt  # a late report of what it was before
    reason = None if seen.reason is None else seen.reason[-REASON_CHARS_MAX:]
    reason = None if status is AttemptStatus.SUCCEEDED else reason
    new = replace(
        attempt,
        status=status,
        reason=reason,
        node_names=seen.node_names or attempt.node_names,
        devices=seen.devices or attempt.devices,
        exit_code=seen.exit_code,
        started_at_ms=attempt.started_at_ms if seen.started_at_ms is None else seen.started_at_ms,
        ended_at_ms=seen.ended_at_ms,
        starts_at_ms=_estimate(attempt, seen, now_ms),
        external_id=seen.external_id or attempt.external_id,
    )
    if status is attempt.status:
        return new
    if status.is_over and new.ended_at_ms is None:
        new = replace(new, ended_at_ms=now_ms)
    return replace(new, changed_at_ms=now_ms)


def _recorded(attempt: Attempt, record: AttemptRecord, now_ms: int) -> Attempt:
    status = AttemptStatus(record.state.value)
    if not status.is_over:
        return attempt
    return replace(
        attempt,
        status=status,
        reason=_end_in_words(status, record.reason),
        exit_code=record.exit_code,
        devices=record.devices,
        started_at_ms=record.started_at_ms,
        ended_at_ms=record.ended_at_ms,
        starts_at_ms=None,
        external_id=record.external_id,
        changed_at_ms=now_ms,
    )


def _end_in_words(status: AttemptStatus, reason: str | None) -> str | None:
    """Return how it ended; of a success there is nothing to be said."""
    if status is AttemptStatus.SUCCEEDED:
        return None
    return reason or "how it ended is not known: only its cluster's accounting tells of it"


def _estimate(attempt: Attempt, seen: AttemptObservation, now_ms: int) -> int | None:
    """Return when it may start: what was known, unless what is said now differs by much.

    A scheduler that is planning anew says nothing for a while. That takes nothing back.
    """
    said, known = seen.starts_at_ms, attempt.starts_at_ms
    if seen.state is not AttemptState.QUEUED or known is None or known < now_ms:
        return said
    if said is None:
        return known
    is_news = abs(said - known) >= max(ESTIMATE_MS_MIN, (said - now_ms) // ESTIMATE_PART)
    return said if is_news else known
