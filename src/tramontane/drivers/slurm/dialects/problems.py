"""What Slurm's ``errors`` lists mean: an outage, a refusal, or nothing at all.

Numbers are those of slurm_errno.h; every version since 22.05 shares the ones that are named here.
"""

from collections.abc import Mapping
from typing import Any, Final

from tramontane.drivers.base import DriverUnavailableError
from tramontane.drivers.slurm.dialects.records import SlurmProblem
from tramontane.drivers.slurm.rest.client import NotSentError, Reply, TokenRefusedError

NOTHING_FOUND: Final = 9003
INVALID_JOB_ID: Final = 2017
ALREADY_DONE: Final = frozenset({2021, 2084})
_UNSPECIFIED: Final = -1
_NO_CONNECTION: Final = 1800  # from slurmrestd to slurmctld: nothing was asked
# The controller's own troubles among the numbers of refusals: job record, script files, credential,
# backup controller, internal error, database index, submissions disabled, standby.
_TROUBLES: Final = frozenset({2007, 2019, 2020, 2026, 2027, 2037, 2090, 2103, 2105, 2131})
# Things that pass without anybody changing the request: busy nodes, limits of what may be queued.
_NOT_NOW: Final = frozenset({2016, 2050, 2068, 2074, 2078, 2079, 2118, 2125})
_REFUSALS: Final = range(2000, 3000)
_UNREADABLE: Final = range(9000, 9300)  # slurmrestd's own: what we sent cannot be parsed
_TOKEN: Final = frozenset({1007, *range(6000, 6010)})
NO_ACCOUNT: Final = frozenset({2045, 2066})  # account, user or QOS: what is kept there for tenants
_HINTS: Final = {
    2000: "set partition in the cluster's settings to one that the cluster has",
    2045: (
        "the account or the user is not in Slurm's accounting for this cluster, or where slurmctld"
        " runs there is no Unix user of that name"
    ),
    2066: "the account may not use this QOS, or there is none of that name",
}


class NoAnswerError(DriverUnavailableError):
    """slurmctld did not answer slurmrestd, or it refused a token: v0.0.38 does not say which."""


class SlurmRefusalError(ValueError):
    """Slurm says no, and will say so again; ``number`` is its own for the reason."""

    def __init__(self, number: int, words: str) -> None:
        hint = _HINTS.get(number)
        super().__init__(f"Slurm refuses it: {words}" + (f" ({hint})" if hint else ""))
        self.number = number


def problems_of(document: Mapping[str, Any]) -> tuple[SlurmProblem, ...]:
    """Return what the ``errors`` of a reply say, in any version's names."""
    listed = document.get("errors")
    entries = listed if isinstance(listed, list) else [listed]
    return tuple(_problem(entry) for entry in entries if entry)


def _problem(entry: object) -> SlurmProblem:
    if not isinstance(entry, Mapping):
        return SlurmProblem(0, str(entry))
    number = next((entry[k] for k in ("error_number", "error_code", "errno") if k in entry), 0)
    short, long = str(entry.get("error") or ""), str(entry.get("description") or "")
    words = short if short and short not in long else long
    if long and short and short not in long:
        words = f"{short}: {long}"
    return SlurmProblem(number if isinstance(number, int) else 0, words or "no reason was given")


def check(reply: Reply) -> Mapping[str, Any]:
    """Return the document of a reply that is an answer.

    Raises `DriverUnavailableError` (as `NotSentError` where nothing can have happened) or
    `SlurmRefusalError`. Nothing found is an answer: an empty list.
    """
    problems = [p for p in problems_of(reply.document) if p.number != NOTHING_FOUND]
    if not problems and reply.status < 400:
        return reply.document
    if not problems:
        raise DriverUnavailableError(f"slurmrestd answered HTTP {reply.status} without a reason")
    for problem in problems:
        _raise_for(problem)
    return reply.document


def _raise_for(problem: SlurmProblem) -> None:
    number, words = problem.number, problem.words
    if number in _TOKEN:
        raise TokenRefusedError(f"Slurm refuses our token: {words}")
    if number == _NO_CONNECTION:
        raise NotSentError(f"slurmrestd does not reach slurmctld: {words}")
    if number in _NOT_NOW:
        raise NotSentError(f"Slurm does not take it now: {words}")
    if (number in _REFUSALS and number not in _TROUBLES) or number in _UNREADABLE:
        raise SlurmRefusalError(number, words)
    if number == _UNSPECIFIED:
        raise NoAnswerError(f"slurmctld did not answer slurmrestd: {words}")
    raise DriverUnavailableError(f"Slurm has trouble: {words} ({number})")
