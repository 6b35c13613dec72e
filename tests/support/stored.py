"""What a control plane keeps of responses, for gateway tests: the internal calls, in memory."""

import re
from dataclasses import dataclass, field
from typing import Any

_HISTORY = re.compile(r"/internal/v1/responses/(?P<id>[^/]+)/history")
FINAL = {"completed", "incomplete", "failed", "cancelled"}


@dataclass
class StoredOnes:
    """Responses by id. ``status`` makes every call fail with it; ``refuses``: none may be kept."""

    kept: dict[str, dict[str, Any]] = field(default_factory=dict)
    status: int = 0
    refuses: bool = False
    reports: list[dict[str, Any]] = field(default_factory=list)

    def clear(self) -> None:
        """Forget everything."""
        self.kept.clear()
        self.reports.clear()
        self.status, self.refuses = 0, False

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return the status and the answer of one internal call."""
        if self.status:
            return self.status, _error("unavailable", "the stub was told to fail")
        if path.endswith("/report"):
            self.reports.append(body)
            said = [*body["queued"], *body["in_progress"]]
            return 200, {"stop": [i for i in said if self._status(i) in {None, "cancelled"}]}
        found = _HISTORY.fullmatch(path)
        if found:
            if found["id"] not in self.kept:
                return 404, _error("not_found", "there is none", "previous_response_id")
            kept = self.kept[found["id"]]
            return 200, {"items": [*kept["input_items"], *kept["response"]["output"]]}
        response = body["response"]
        if method == "PUT":
            if response["id"] not in self.kept:
                return 404, _error("not_found", "there is none")
            if self._status(response["id"]) not in FINAL:
                self.kept[response["id"]]["response"] = response
            return 200, {"status": self._status(response["id"])}
        if self.refuses:
            return 403, _error("permission_denied", "the organization does not allow it")
        self.kept.setdefault(response["id"], body)
        return 200, {}

    def _status(self, response_id: str) -> str | None:
        kept = self.kept.get(response_id)
        return kept["response"]["status"] if kept is not None else None


def _error(code: str, message: str, param: str | None = None) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "param": param, "type": "x"}}
