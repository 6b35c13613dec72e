"""The page behind console_url: for anyone, and with nothing of the installation on it."""

import re

from tests.support.cloud import Cloud


def test_the_page_answers_without_a_key_and_loads_nothing(shared_cloud: Cloud) -> None:
    reply = shared_cloud.call("GET", "/console", key="")
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert "A console for the browser is not part of this" in reply.text
    assert not re.search(
        r"(src|href)=.?https?:|<script|tmt_|(org|prj|key|dep)_[a-z2-7]{20}", reply.text
    )
    (link,) = re.findall(r'href="([^"]+)"', reply.text)
    assert shared_cloud.call("GET", link, key="").status_code == 200
