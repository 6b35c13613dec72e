"""A tenant with a valid key who wants more than his share: memory, turns, other tenants' things."""

from tests.support.gateway import HMAC_KEY, MEMBER_KEY, make_keys
from tramontane.domain.routing import RouteKey
from tramontane.gateway.auth import Authenticator


def test_one_key_in_many_spellings_takes_no_memory() -> None:
    auth = Authenticator(HMAC_KEY, make_keys())
    for spaces in range(1, 3_000):
        header = b"Bearer" + b" " * spaces + MEMBER_KEY.encode()
        assert isinstance(auth.identify(header, 0), RouteKey)
    assert sum(map(len, auth._cache)) < 20_000
