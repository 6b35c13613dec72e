"""What is said of paths that the vendors' clients know and nothing serves."""

import pytest

from tramontane.domain.refusal import Code
from tramontane.wire import unserved


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/moderations", "is part of the API, but no model here does that"),
        ("/v1/chat/moderations", "is part of the API, but no model"),
        ("/v1/audio/speech", "is part of the API, but no model"),
        ("/v1/files", "is part of the API, but it is not served here yet"),
        ("/v1/fine_tuning/jobs/x/events", "is part of the API, but it is not served here yet"),
        ("/v2/prompts", "vendor's own products"),
        ("/v1/nonsense", "Invalid URL (POST /v1/nonsense)"),
        ("/v1/chat", "Invalid URL (POST /v1/chat)"),
        ("/v1/", "Invalid URL (POST /v1/)"),
    ],
)
def test_a_path_is_refused_by_what_is_known_of_it(path: str, words: str):
    refusal = unserved.refusal_at("POST", path)
    assert refusal.code is Code.NOT_FOUND
    assert words in refusal.message
    assert refusal.message.startswith(("POST ", "Invalid URL (POST "))


def test_only_models_work_is_the_gateways():
    assert unserved.is_models_work("/v1/chat/classifications")
    assert unserved.is_models_work("/v1/images/generations")
    assert not unserved.is_models_work("/v1/chat/completions")
    assert not unserved.is_models_work("/v1/files")
    assert not unserved.is_models_work("/moderations")
    assert not unserved.is_models_work("/")
