"""The tables of quotas, reserved racks, prices of classes and costs of attempts."""

from typing import Final

from sqlalchemy import Column, Index, Text

from tramontane.store.tables import (
    id_column,
    int_column,
    int_or_null,
    make_table,
    reference,
    text_column,
    text_or_null,
)

quotas: Final = make_table(
    "quotas",
    id_column(),
    text_column("scope"),
    text_column("subject_id"),
    int_or_null("devices_max"),
    int_column("share"),
    text_or_null("priority_classes"),
    int_column("created_at_ms"),
)
Index("uq_quotas_subject", quotas.c.subject_id, unique=True)
Index("ix_quotas_order", quotas.c.created_at_ms, quotas.c.id)

# `cluster` is a name: a rack may be reserved before the cluster answered for the first time.
rack_reservations: Final = make_table(
    "rack_reservations",
    id_column(),
    reference("organization_id", "organizations"),
    text_column("cluster"),
    text_column("rack"),
    int_column("created_at_ms"),
)
Index(
    "uq_rack_reservations_rack", rack_reservations.c.cluster, rack_reservations.c.rack, unique=True
)
Index("ix_rack_reservations_order", rack_reservations.c.created_at_ms, rack_reservations.c.id)

# A class without a row is free.
class_prices: Final = make_table(
    "class_prices",
    Column("priority_class", Text, primary_key=True),
    int_column("device_hour_micro"),
    int_column("changed_at_ms"),
)

# One row for each attempt that was accounted, written once: a later price changes no old bill. It
# refers to nothing, and repeats what the cost follows from.
attempt_costs: Final = make_table(
    "attempt_costs",
    Column("attempt_id", Text, primary_key=True),
    text_column("priority_class"),
    int_column("device_seconds"),
    int_column("device_hour_micro"),
    int_column("cost_nano"),
    int_column("accounted_at_ms"),
)
