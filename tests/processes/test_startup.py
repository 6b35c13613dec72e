"""How the processes start: the socket they listen on, and where it is reached."""

import socket

import pytest

from tramontane.processes.startup import FATAL_EXIT, inherited_or_listen, listen, origin, refuse


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "0.0.0.0", "::"])
def test_it_listens_where_it_says_it_is_reached(host: str) -> None:
    with listen(host, 0) as listener:
        port = listener.getsockname()[1]
        address, _, _ = origin(host, port).removeprefix("http://").rpartition(":")
        with socket.create_connection((address.strip("[]"), port), timeout=5):
            accepted, _ = listener.accept()
            accepted.close()


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", "http://127.0.0.1:8080"),
        ("0.0.0.0", "http://127.0.0.1:8080"),
        ("::", "http://[::1]:8080"),
        ("2001:db8::7", "http://[2001:db8::7]:8080"),
        ("cloud.example", "http://cloud.example:8080"),
    ],
)
def test_the_origin_can_be_put_into_a_url(host: str, expected: str) -> None:
    assert origin(host, 8080) == expected


def test_a_port_that_is_taken_is_told() -> None:
    with listen("127.0.0.1", 0) as first, pytest.raises(OSError, match="in use"):
        listen("127.0.0.1", first.getsockname()[1])


def test_who_cannot_listen_is_told_where_and_what_to_do() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(OSError, match="choose another") as told:
            inherited_or_listen(None, "127.0.0.1", port)
    assert str(told.value) == (
        f"cannot listen on 127.0.0.1:{port}: Address already in use; "
        "choose another with --port N (0 picks a free one)"
    )


def test_an_inherited_socket_is_used_as_it_is() -> None:
    with (
        listen("127.0.0.1", 0) as first,
        inherited_or_listen(socket.dup(first.fileno()), "192.0.2.1", 1) as second,
    ):
        assert second.getsockname() == first.getsockname()


def test_a_refusal_is_one_line_and_a_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert refuse("the home is gone", FATAL_EXIT) == 78
    assert capsys.readouterr() == ("", "tramontane: error: the home is gone\n")
