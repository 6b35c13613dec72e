"""What can go wrong between the control plane and its database."""


class StoreUnavailableError(Exception):
    """The database is down, full, locked for too long or damaged; nothing was changed.

    One exception to "nothing was changed": when the connection breaks while a commit is on its
    way, nobody can know. Callers look again, as they do after any outage.
    """


class NewerSchemaError(Exception):
    """The database was written by a newer version; nothing was changed."""


class StaleError(Exception):
    """A guarded write found another revision than the one that was seen: look again."""

    def __init__(self, noun: str, subject_id: str) -> None:
        super().__init__(
            f"{noun} {subject_id} was changed or removed by someone else meanwhile:"
            " read it again and retry"
        )
        self.noun = noun
        self.subject_id = subject_id


class NameTakenError(Exception):
    """Another live ``noun`` already has the name ``name``."""

    def __init__(self, noun: str, name: str) -> None:
        super().__init__(f"the {noun} name {name!r} is taken: choose another name")
        self.noun = noun
        self.name = name


class UnreadableValueError(Exception):
    """A stored value does not have the form that this version writes; the row is left as it is."""
