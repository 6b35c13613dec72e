"""A request whose JSON is read to the letter of RFC 8259."""

import json
from typing import Any

from fastapi import Request

from tramontane.domain import strict_json


class StrictRequest(Request):
    """Refuses what `domain.strict_json` refuses: NaN, equal keys, half surrogates."""

    async def json(self) -> Any:
        """Return the decoded body; raises `json.JSONDecodeError`, which FastAPI reports as 400."""
        body = await self.body()
        try:
            return strict_json.loads(body)
        except strict_json.StrictJsonError as error:
            raise json.JSONDecodeError(str(error), "", 0) from error
