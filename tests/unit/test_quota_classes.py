"""Which classes may be asked for, and which one a refusal names."""

import pytest

from tramontane.domain.launch import PriorityClass
from tramontane.domain.quotas.classes import (
    Classes,
    check_class,
    nearest,
    of_organization,
    of_project,
    ordered,
)
from tramontane.domain.quotas.quota import Quota, QuotaScope

RESERVED, STANDARD, SPOT = PriorityClass


def quota(*named: PriorityClass) -> Quota:
    return Quota("quo_1", QuotaScope.PROJECT, "prj_1", priority_classes=named or None)


@pytest.mark.parametrize(
    ("asked", "allowed", "expected"),
    [
        (RESERVED, (STANDARD, SPOT), STANDARD),
        (RESERVED, (SPOT,), SPOT),
        (STANDARD, (RESERVED, SPOT), SPOT),  # what gives way sooner is never too much
        (STANDARD, (RESERVED,), RESERVED),
        (SPOT, (RESERVED, STANDARD), STANDARD),
        (SPOT, (RESERVED, STANDARD, SPOT), SPOT),
        (SPOT, (), None),
    ],
)
def test_the_nearest_class(
    asked: PriorityClass, allowed: Classes, expected: PriorityClass | None
) -> None:
    assert nearest(asked, allowed) is expected
    refusal = check_class(asked, allowed, "job")
    assert (refusal is None) is (asked in allowed)
    if refusal is not None and expected is not None:
        assert f": ask for {expected}, or ask an operator" in refusal.message


def test_what_is_named_is_all_and_a_project_never_has_more() -> None:
    assert of_organization(None, has_rack=False) == (STANDARD, SPOT)
    assert of_organization(quota(), has_rack=True) == (RESERVED, STANDARD, SPOT)
    assert of_organization(quota(SPOT), has_rack=True) == (SPOT,)
    assert of_project((STANDARD, SPOT), None) == (STANDARD, SPOT)
    assert of_project((STANDARD, SPOT), quota()) == (STANDARD, SPOT)
    assert of_project((STANDARD, SPOT), quota(RESERVED, SPOT)) == (SPOT,)
    assert of_project((STANDARD, SPOT), quota(RESERVED)) == ()
    assert ordered([SPOT, RESERVED, SPOT]) == (RESERVED, SPOT)
