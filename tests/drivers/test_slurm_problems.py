"""What each of Slurm's error numbers means for a call: asked again, refused, or never sent."""

from typing import Any

import pytest

from tramontane.drivers.base import DriverUnavailableError
from tramontane.drivers.slurm.dialects import problems
from tramontane.drivers.slurm.dialects.problems import NoAnswerError, SlurmRefusalError
from tramontane.drivers.slurm.rest.client import NotSentError, Reply, TokenRefusedError

# Of slurm_errno.h. A number in the wrong group resubmits what is refused, or gives up in an outage.
TOKENS = (1007, 6000, 6009)
NOT_SENT = (1800, 2016, 2050, 2068, 2074, 2078, 2079, 2118, 2125)
TROUBLES = (2007, 2019, 2020, 2026, 2027, 2037, 2090, 2103, 2105, 2131)
REFUSALS = (2000, 2006, 2017, 2018, 2021, 2045, 2066, 2084, 2999, 9000, 9299)
OTHERS = (0, 1006, 1008, 1801, 1999, 3000, 5999, 6010, 8999, 9300, -2)


def raised(*entries: Any, status: int = 500) -> Exception:
    with pytest.raises((DriverUnavailableError, SlurmRefusalError)) as told:
        problems.check(Reply(status, {"errors": list(entries)}))
    return told.value


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        *((number, TokenRefusedError) for number in TOKENS),
        *((number, NotSentError) for number in NOT_SENT),
        *((number, SlurmRefusalError) for number in REFUSALS),
        *((number, DriverUnavailableError) for number in (*TROUBLES, *OTHERS)),
        (-1, NoAnswerError),
    ],
)
def test_every_number_has_its_meaning(number: int, kind: type[Exception]) -> None:
    error = raised({"error_number": number, "error": "Because of this"}, status=200)
    assert type(error) is kind
    assert "Because of this" in str(error)


@pytest.mark.parametrize(
    ("number", "hint"),
    [(2000, "set partition"), (2045, "not in Slurm's accounting"), (2066, "may not use this QOS")],
)
def test_what_an_operator_can_mend_is_told(number: int, hint: str) -> None:
    error = raised({"error_number": number, "description": "no"})
    assert isinstance(error, SlurmRefusalError)
    assert error.number == number
    assert str(error).startswith("Slurm refuses it: no (")
    assert hint in str(error)
    assert str(raised({"error_number": 2001, "error": "no"})) == "Slurm refuses it: no"


def test_nothing_found_is_an_answer_and_a_bare_failure_is_an_outage() -> None:
    empty = {"errors": [{"error_number": 9003, "error": "Nothing found"}]}
    assert problems.check(Reply(399, empty)) is empty
    with pytest.raises(DriverUnavailableError, match="HTTP 400 without a reason"):
        problems.check(Reply(400, {}))
    with pytest.raises(DriverUnavailableError, match="HTTP 500 without a reason"):
        problems.check(Reply(500, empty))
    both = raised({"error_number": 9003}, {"error_number": 2045, "error": "no"})
    assert isinstance(both, SlurmRefusalError)


@pytest.mark.parametrize(
    ("entry", "number", "words"),
    [
        ({"error_code": 5, "error": "short", "description": "long"}, 5, "short: long"),
        ({"errno": 6, "error": "own", "description": "its own words"}, 6, "its own words"),
        ({"error_number": 7, "error": "short"}, 7, "short"),
        ({"error_number": 8, "description": "long"}, 8, "long"),
        ({"error_number": "9"}, 0, "no reason was given"),
        ({}, None, ""),
        ("a text", 0, "a text"),
    ],
)
def test_the_names_of_any_version_are_read(entry: Any, number: int | None, words: str) -> None:
    found = problems.problems_of({"errors": [entry]})
    assert [(it.number, it.words) for it in found] == ([] if number is None else [(number, words)])
    assert problems.problems_of({"errors": entry}) == found


def test_what_a_call_makes_of_some_numbers() -> None:
    assert problems.INVALID_JOB_ID == 2017
    assert set(problems.ALREADY_DONE) == {2021, 2084}
    assert set(problems.NO_ACCOUNT) == {2045, 2066}
