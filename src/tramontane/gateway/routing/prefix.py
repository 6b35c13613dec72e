"""Tells which conversation a prompt belongs to, by a number that is cheap to find.

An engine keeps the keys and values of the prompts that it has read, so the next turn of a
conversation is answered sooner, and cheaper, where the turn before was. What stays the same from
turn to turn is how the prompt begins: the messages up to the first one of the user. A bounded piece
of each is hashed, so a prompt of 100 kB costs no more than one of 4 kB.
"""

from typing import Any, Final
from zlib import crc32

from tramontane.gateway.calls.forms import MessageForm

# About 256 tokens of the user's first message: longer than the sentences that applications put
# before what differs between two users' questions.
USER_CHARACTERS: Final = 1_024
OTHER_CHARACTERS: Final = 512  # of each message before it: enough to tell system prompts apart
MESSAGES_MAX: Final = 8  # looked at for one of the user
TOKENS_MAX: Final = 256  # of a prompt that comes as token ids
_PARTS_MAX: Final = 4  # of a message that comes in parts


def prefix_of(prompt: object, seed: int) -> int | None:
    """Return a number of 32 bits for how ``prompt`` begins, or None when it says nothing.

    ``prompt`` is a list of messages, typed or as decoded from JSON, a text, a list of texts or a
    list of token ids. ``seed`` keeps the projects apart. Every gateway finds the same number.
    """
    if type(prompt) is list:
        found = seed
        content: object
        role: object
        for message in prompt[:MESSAGES_MAX]:
            if isinstance(message, MessageForm):
                content, role = message.content, message.role
            elif type(message) is dict:
                content, role = message.get("content"), message.get("role")
            else:
                return _of_plain(prompt, seed)
            is_users = role == "user"
            if type(content) is str:
                head = content[: USER_CHARACTERS if is_users else OTHER_CHARACTERS]
                found = crc32(head.encode(), found)
            elif content is not None:
                found = _of_parts(content, found)
            if is_users:
                break
        return found if found != seed else None
    if type(prompt) is str and prompt:
        return crc32(prompt[:USER_CHARACTERS].encode(), seed)
    return None


def _of_parts(content: object, seed: int) -> int:
    """Return the number of a message's typed parts: text, image_url and the like."""
    found = seed
    for part in content[:_PARTS_MAX] if type(content) is list else ():
        values: Any = part.values() if type(part) is dict else (part,)
        for value in values:
            text = value if type(value) is str else repr(value)[:USER_CHARACTERS]
            found = crc32(text[:USER_CHARACTERS].encode(errors="replace"), found)
    return found


def _of_plain(prompt: list[Any], seed: int) -> int | None:
    first = prompt[0]
    if type(first) is str or type(first) is list:  # several prompts: the first speaks for all
        return prefix_of(first, seed)
    return crc32(repr(prompt[:TOKENS_MAX]).encode(), seed)
