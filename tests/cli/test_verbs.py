"""Each verb: what it asks the API for, and what it prints of the answer."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.cli import CommandLine, Reply, Run, Stub, listing
from tests.support.command_tree import commands

Serve = Callable[[Any], Stub]
Against = Callable[[Stub], CommandLine]

ANY = Reply({"object": "list", "id": "dep_1", "name": "chat", "data": [], "has_more": False})

Sent = tuple[str, str, str, dict[str, str], dict[str, Any] | None]

# command line -> method, path below /cloud/v1, query, body
SENT: list[Sent] = [
    ("organizations list", "GET", "/organizations", {"limit": "100"}, None),
    ("organizations get acme", "GET", "/organizations/acme", {}, None),
    ("organizations create acme", "POST", "/organizations", {}, {"name": "acme"}),
    (
        "projects list --organization acme --limit 7",
        "GET",
        "/projects",
        {"organization": "acme", "limit": "7"},
        None,
    ),
    ("projects get web", "GET", "/projects/web", {}, None),
    (
        "projects create web --organization acme",
        "POST",
        "/projects",
        {},
        {"name": "web", "organization": "acme"},
    ),
    ("projects archive web --yes", "DELETE", "/projects/web", {}, None),
    ("api-keys list --project web", "GET", "/api-keys", {"project": "web", "limit": "100"}, None),
    (
        "api-keys create ci --role operator --project web",
        "POST",
        "/api-keys",
        {},
        {"name": "ci", "role": "operator", "project": "web"},
    ),
    ("api-keys get key_1", "GET", "/api-keys/key_1", {}, None),
    ("api-keys revoke key_1 -y", "DELETE", "/api-keys/key_1", {}, None),
    ("models list", "GET", "/models", {"limit": "100"}, None),
    ("models get m", "GET", "/models/m", {}, None),
    (
        "models import m /weights/m.gguf --digest sha256:00 --licence MIT",
        "POST",
        "/models",
        {},
        {"name": "m", "path": "/weights/m.gguf", "digest": "sha256:00", "licence": "MIT"},
    ),
    ("models delete m --yes", "DELETE", "/models/m", {}, None),
    ("deployments list", "GET", "/deployments", {"limit": "100"}, None),
    ("deployments get a/b --project p", "GET", "/deployments/a%2Fb", {"project": "p"}, None),
    (
        "deployments create chat --model m",
        "POST",
        "/deployments",
        {},
        {"name": "chat", "model": "m", "replicas": 1},
    ),
    (
        (
            "deployments create chat --model m --replicas 0 --engine vllm --context-length 1024 "
            "--parallel 8 --devices 2 --cpu-millicores 500 --memory-bytes 9 --project web "
            "--engine-option a=b=c --engine-option d="
        ),
        "POST",
        "/deployments",
        {},
        {
            "name": "chat",
            "model": "m",
            "replicas": 0,
            "engine": "vllm",
            "context_length": 1024,
            "parallel": 8,
            "devices": 2,
            "cpu_millicores": 500,
            "memory_bytes": 9,
            "engine_options": {"a": "b=c", "d": ""},
            "project": "web",
        },
    ),
    (
        "deployments autoscale chat --max 3 --requests 4 --idle 2",
        "PUT",
        "/deployments/chat/autoscale",
        {},
        {"replicas_min": 0, "replicas_max": 3, "requests_in_flight": 4, "idle_ms": 2_000},
    ),
    ("deployments autoscale chat --off", "DELETE", "/deployments/chat/autoscale", {}, None),
    (
        "deployments canary chat --model m:2 --percent 10 --engine-option threads=2",
        "PUT",
        "/deployments/chat/canary",
        {},
        {"percent": 10, "model": "m:2", "engine_options": {"threads": "2"}},
    ),
    ("deployments promote chat", "POST", "/deployments/chat/canary/promote", {}, {}),
    ("deployments abort chat", "DELETE", "/deployments/chat/canary", {}, None),
    (
        "deployments update chat --model m2 --parallel 2 --project web",
        "PATCH",
        "/deployments/chat",
        {"project": "web"},
        {"model": "m2", "parallel": 2},
    ),
    ("deployments scale chat 0", "POST", "/deployments/chat/scale", {}, {"replicas": 0}),
    ("deployments delete chat --yes", "DELETE", "/deployments/chat", {}, None),
    ("deployments logs chat --lines 5", "GET", "/deployments/chat/logs", {"lines": "5"}, None),
    ("deployments events chat", "GET", "/deployments/chat/events", {"limit": "100"}, None),
    (
        "replicas list --deployment chat",
        "GET",
        "/replicas",
        {"deployment": "chat", "limit": "100"},
        None,
    ),
    ("replicas get rep_1", "GET", "/replicas/rep_1", {}, None),
    ("sites list", "GET", "/sites", {"limit": "100"}, None),
    ("clusters list", "GET", "/clusters", {"limit": "100"}, None),
    ("nodes list --cluster c", "GET", "/nodes", {"cluster": "c", "limit": "100"}, None),
    ("clusters get alps", "GET", "/clusters/alps", {}, None),
    ("nodes get n1", "GET", "/nodes/n1", {}, None),
    (
        "nodes drain n1 --reason disks --cluster alps",
        "POST",
        "/nodes/n1/drain",
        {"cluster": "alps"},
        {"reason": "disks"},
    ),
    ("nodes resume n1", "POST", "/nodes/n1/resume", {}, {}),
    (
        "usage totals --from 1970-01-02 --to 1970-01-02T01:00:00+01:00 --group-by hour",
        "GET",
        "/usage",
        {"from_ms": "86400000", "to_ms": "86400000", "group_by": "hour", "limit": "100"},
        None,
    ),
    (
        "usage events --after evt_1",
        "GET",
        "/usage/events",
        {"after": "evt_1", "limit": "100"},
        None,
    ),
    ("limits list --key key_1", "GET", "/limits", {"api_key": "key_1", "limit": "100"}, None),
    ("limits get lim_1", "GET", "/limits/lim_1", {}, None),
    (
        (
            "limits set --project demo --model chat --requests-per-minute 100 "
            "--tokens-per-minute 9 --requests-in-flight 4 --budget 10.00"
        ),
        "PUT",
        "/limits",
        {},
        {
            "project": "demo",
            "model": "chat",
            "requests_per_minute_max": 100,
            "tokens_per_minute_max": 9,
            "requests_in_flight_max": 4,
            "budget_micro": 10_000_000,
        },
    ),
    ("limits set --key key_1", "PUT", "/limits", {}, {"api_key": "key_1"}),
    ("limits remove lim_1 -y", "DELETE", "/limits/lim_1", {}, None),
    (
        "budgets list --organization acme",
        "GET",
        "/budgets",
        {"organization": "acme", "limit": "100"},
        None,
    ),
    ("prices list", "GET", "/prices", {"limit": "100"}, None),
    ("prices get m", "GET", "/prices/m", {}, None),
    (
        "prices set m --prompt 0.15 --completion .000001",
        "PUT",
        "/prices/m",
        {},
        {"prompt_micro": 150_000, "completion_micro": 1},
    ),
    (
        "prices set m --cached 0 --request 12",
        "PUT",
        "/prices/m",
        {},
        {"cached_micro": 0, "request_micro": 12_000_000},
    ),
    ("prices remove m -y", "DELETE", "/prices/m", {}, None),
    (
        "prices set-class spot --device-hour 1.20",
        "PUT",
        "/class-prices/spot",
        {},
        {"device_hour_micro": 1_200_000},
    ),
    (
        "quotas list --organization acme",
        "GET",
        "/quotas",
        {"organization": "acme", "limit": "100"},
        None,
    ),
    (
        "quotas set --project demo --devices 16 --share 3",
        "PUT",
        "/quotas",
        {},
        {"project": "demo", "devices_max": 16, "share": 3},
    ),
    (
        "quotas set --organization acme --priority-classes standard,spot",
        "PUT",
        "/quotas",
        {},
        {"organization": "acme", "share": 1, "priority_classes": ["standard", "spot"]},
    ),
    ("prices classes", "GET", "/class-prices", {}, None),
    (
        "usage attempts --job train --from 2026-11-22",
        "GET",
        "/usage/attempts",
        {"job": "train", "from_ms": "1795305600000", "limit": "100"},
        None,
    ),
    ("quotas delete quo_1 -y", "DELETE", "/quotas/quo_1", {}, None),
    ("reservations list", "GET", "/reservations", {"limit": "100"}, None),
    (
        "reservations create --organization acme --cluster alps --rack rack1",
        "POST",
        "/reservations",
        {},
        {"organization": "acme", "cluster": "alps", "rack": "rack1"},
    ),
    ("reservations delete rsv_1 -y", "DELETE", "/reservations/rsv_1", {}, None),
    ("organizations block acme", "PATCH", "/organizations/acme", {}, {"is_blocked": True}),
    ("organizations unblock acme", "PATCH", "/organizations/acme", {}, {"is_blocked": False}),
    (
        "organizations update acme --store-responses",
        "PATCH",
        "/organizations/acme",
        {},
        {"may_store_responses": True},
    ),
    ("projects block web", "PATCH", "/projects/web", {}, {"is_blocked": True}),
    ("projects unblock web", "PATCH", "/projects/web", {}, {"is_blocked": False}),
    (
        "projects update web --no-strict --models a,b",
        "PATCH",
        "/projects/web",
        {},
        {"is_strict": False, "allowed_models": ["a", "b"]},
    ),
    ("api-keys block key_1", "PATCH", "/api-keys/key_1", {}, {"is_blocked": True}),
    ("api-keys unblock key_1", "PATCH", "/api-keys/key_1", {}, {"is_blocked": False}),
    ("api-keys update key_1 --models *", "PATCH", "/api-keys/key_1", {}, {"allowed_models": ["*"]}),
    (
        "jobs list --status failed",
        "GET",
        "/jobs",
        {"status": "failed", "order": "desc", "limit": "100"},
        None,
    ),
    ("jobs get train --project web", "GET", "/jobs/train", {"project": "web"}, None),
    ("jobs cancel train -y", "POST", "/jobs/train/cancel", {}, {}),
    ("jobs delete job_1 -y", "DELETE", "/jobs/job_1", {}, None),
    ("jobs attempts train", "GET", "/jobs/train/attempts", {"limit": "100"}, None),
    ("story dep_1", "GET", "/events", {"subject": "dep_1", "limit": "100"}, None),
    ("whoami", "GET", "/whoami", {}, None),
]


@pytest.mark.parametrize("sent", SENT, ids=lambda sent: sent[0][:40])
def test_what_is_asked(serve: Serve, against: Against, sent: Sent) -> None:
    line, method, path, query, body = sent
    stub = serve(ANY)
    run = against(stub)(*line.split())
    assert run.code == 0, run.err
    [request] = stub.requests
    assert (request.method, request.path) == (method, f"/cloud/v1{path}")
    assert (request.query, request.body) == (query, body)


def test_no_verb_is_left_out() -> None:
    apart = {"up", "control", "gateway", "plan", "runner", "chat", "dev"}
    verbs = {" ".join(c.words) for c in commands() if not c.is_group and c.words[0] not in apart}
    verbs -= {"jobs submit", "jobs wait", "jobs logs", "jobs example"}  # tests/cli/test_jobs.py
    tried = {line for line, *_ in SENT}
    assert {verb for verb in verbs if not any(line.startswith(verb) for line in tried)} == set()


def test_a_relative_path_is_made_absolute_where_it_was_typed(
    serve: Serve, against: Against, tmp_path: Any
) -> None:
    stub = serve(ANY)
    against(stub)("models", "import", "m", "weights/m.gguf")
    assert stub.requests[0].body["path"] == str(tmp_path / "weights" / "m.gguf")


def test_an_empty_list_says_what_to_do(serve: Serve, against: Against) -> None:
    run = against(serve(listing()))("deployments", "list")
    assert run.out == (
        "no deployments yet; create one with `tramontane deployments create NAME --model MODEL`\n"
    )
    lists = [c.words for c in commands() if c.words[-1:] == ("list",)]
    assert len(lists) >= 8
    for words in lists:
        said = against(serve(listing()))(*words).out
        assert said.startswith("no ")
        assert said.count("\n") == 1


def lines_of(run: Run) -> list[str]:
    assert run.code == 0, run.err
    return run.out.splitlines()


def test_a_list_is_a_table(serve: Serve, against: Against) -> None:
    one = {"id": "dep_1", "name": "chat", "model": "m", "status": "ready", "wanted_replicas": 3}
    one |= {"ready_replicas": 2, "engine": "vllm", "created_at_ms": 1_700_000_000_000}
    two = {
        "id": "dep_2",
        "name": "long-name",
        "model": None,
        "status": "pending",
        "wanted_replicas": 1,
    }
    two |= {"ready_replicas": 0, "engine": "llamacpp", "reason": "no\nroom"}
    run = against(serve(listing(one, two)))("deployments", "list")
    assert lines_of(run) == [
        "NAME       MODEL  STATUS   READY  WANTED  ENGINE    CREATED               ID     REASON",
        "chat       m      ready    2      3       vllm      2023-11-14 22:13:20Z  dep_1  -",
        "long-name  -      pending  0      1       llamacpp  -                     dep_2  no room",
    ]


def test_a_list_that_was_cut_says_so_apart(serve: Serve, against: Against) -> None:
    run = against(serve(listing({"id": "a"}, has_more=True)))("models", "list", "--limit", "1")
    assert run.err == "the first 1; there are more: raise --limit\n"
    assert len(lines_of(run)) == 2


def test_an_object_is_printed_field_by_field(serve: Serve, against: Against) -> None:
    item = {"object": "deployment", "id": "dep_1", "memory_bytes": 3 << 30, "deleted_at_ms": None}
    item |= {
        "created_at_ms": 0,
        "engine_options": {"a": "b"},
        "none": {},
        "is_ready": True,
        "note": "x\ty",
    }
    run = against(serve(Reply(item)))("deployments", "get", "chat")
    assert lines_of(run) == [
        "id                dep_1",
        "memory_bytes      3.0 GiB",
        "deleted_at_ms     -",
        "created_at_ms     1970-01-01 00:00:00Z",
        "engine_options.a  b",
        "none              -",
        "is_ready          yes",
        "note              x y",
    ]


def test_json_is_what_the_api_said(serve: Serve, against: Against) -> None:
    item = {"object": "model", "id": "mdl_1", "name": "ключ\x1b[31m", "latest": None}
    run = against(serve(Reply(item)))("models", "get", "m", "--json")
    assert run.out.isascii()
    assert json.loads(run.out) == item
    page = listing(item)
    assert json.loads(against(serve(page))("models", "list", "--json").out) == page.body


def test_a_model_is_printed_with_its_versions(serve: Serve, against: Against) -> None:
    version = {"number": 2, "format": "gguf", "size_bytes": 1 << 20, "digest": "sha256:ab"}
    model = version | {"id": "mdl_1", "name": "m", "created_at_ms": 0, "versions": [version]}
    out = lines_of(against(serve(Reply(model)))("models", "get", "m"))
    assert [line.split() for line in out[:2]] == [["id", "mdl_1"], ["name", "m"]]
    assert out[4].split()[:3] == ["VERSION", "FORMAT", "ARCHITECTURE"]
    assert out[5].split()[:2] == ["2", "gguf"]
    listed = lines_of(against(serve(listing(model)))("models", "list"))
    assert listed[1].split()[:3] == ["m", "2", "gguf"]


def test_nodes_show_what_replicas_may_use(serve: Serve, against: Against) -> None:
    capacity = {"cpu_millicores": 2500, "memory_bytes": 1 << 34, "devices": 2}
    node = {"name": "n1", "capacity": capacity, "status": "ready"}
    node |= {"cluster": "alps", "devices": [{"name": "H200"}, {"name": "H200"}], "id": "nod_1"}
    node |= {"rack": "r1", "devices_free": 1, "replica_ids": ["rep_1"], "attempt_ids": []}
    out = lines_of(against(serve(listing(node)))("nodes", "list"))
    told = ["n1", "alps", "r1", "ready", "2.5", "16.0", "GiB", "2", "x", "H200", "1", "1", "0"]
    assert out[1].split()[: len(told)] == told


def test_a_cluster_is_shown_rack_by_rack(serve: Serve, against: Against) -> None:
    node = {"name": "n1", "status": "drained", "reason": "new disks", "replica_ids": ["rep_1"]}
    racks = [{"name": "r1", "nodes": [node]}, {"name": None, "nodes": []}]
    cluster = {"object": "cluster", "id": "clu_1", "name": "alps", "racks": racks}
    out = lines_of(against(serve(Reply(cluster)))("clusters", "get", "alps"))
    assert [line.split() for line in out[:2]] == [["id", "clu_1"], ["name", "alps"]]
    assert out[3] == "rack r1"
    assert out[4].split()[:3] == ["NAME", "STATUS", "CPU"]
    assert out[5].startswith("n1")
    assert out[5].endswith("new disks")
    assert out[7:] == ["no rack is told", "no nodes"]


def test_usage_shows_only_the_key_it_was_grouped_by(serve: Serve, against: Against) -> None:
    line = {"hour_ms": None, "project_id": None, "api_key_id": None, "model": "m"}
    line |= {"requests": 3, "prompt_tokens": 20, "completion_tokens": 5, "cached_tokens": 1}
    line["cost_nano"] = 1_500_000_001
    run = against(serve(listing(line)))("usage", "totals")
    titles = ["MODEL", "REQUESTS", "PROMPT", "COMPLETION", "CACHED", "EUROS"]
    assert lines_of(run)[0].split() == titles
    assert lines_of(run)[1].split() == ["m", "3", "20", "5", "1", "1.500000001"]


def test_logs_name_the_replica_and_cannot_play_with_the_terminal(
    serve: Serve, against: Against
) -> None:
    part = {"replica_id": "rep_1", "status": "ready", "lines": ["load \x1b[2Jok", "done"]}
    run = against(serve(Reply({"object": "logs", "data": [part]})))("deployments", "logs", "chat")
    assert lines_of(run) == ["rep_1  load ?[2Jok", "rep_1  done"]


def test_events_are_told_oldest_first(serve: Serve, against: Against) -> None:
    event = {"sequence": 1, "at_ms": 0, "subject_id": "rep_1", "kind": "replica.ready"}
    event |= {"actor": "replicas", "message": "ready after 2 s"}
    for words in (["story", "dep_1"], ["deployments", "events", "chat"]):
        out = lines_of(against(serve(listing(event)))(*words))
        assert out[1].split(maxsplit=5)[2:] == [
            "replica.ready",
            "rep_1",
            "replicas",
            "ready after 2 s",
        ]


def test_a_key_can_end(serve: Serve, against: Against) -> None:
    stub = serve(ANY)
    before_ms = time.time_ns() // 1_000_000
    against(stub)("api-keys", "create", "ci", "--expires-in-days", "30")
    later_ms = stub.requests[0].body["expires_at_ms"] - 30 * 86_400_000
    assert before_ms <= later_ms <= time.time_ns() // 1_000_000


def test_the_text_of_a_key_is_printed_once_with_a_warning(serve: Serve, against: Against) -> None:
    new = {"object": "api_key", "id": "key_1", "name": "ci", "key": "tmt_secret"}
    run = against(serve(Reply(new)))("api-keys", "create", "ci")
    assert "tmt_secret" in run.out
    assert run.err == "keep the key now: it is not shown again\n"


def test_a_bill_has_lines_and_sums(serve: Serve, against: Against) -> None:
    line = {"job": "train", "number": 1, "array_index": 0, "status": "preempted"}
    line |= {"priority_class": "spot", "devices": 4, "seconds": 60, "device_seconds": 240}
    line |= {"cost_nano": 80_000_000, "started_at_ms": 1_700_000_000_000}
    total = {"project_id": "prj_1", "priority_class": "spot", "attempts": 1}
    total |= {"device_seconds": 240, "cost_nano": 80_000_000}
    bill = Reply({"data": [line], "has_more": False, "totals": [total], "open_attempts": 2})
    out = lines_of(against(serve(bill))("usage", "attempts"))
    assert out[0].split()[:5] == ["STARTED", "JOB", "INDEX", "ATTEMPT", "STATUS"]
    assert out[1].endswith(
        "train  0      1        preempted  spot   4        60       240             0.08"
    )
    assert out[2] == ""
    assert out[4].split() == ["prj_1", "spot", "1", "240", "0.08"]
    assert out[5] == "2 of them are not accounted yet, and in no sum"
