"""Planning: from an immutable snapshot to explicit actions, purely.

`replica_plan.plan_replicas` and `route_plan.plan_routes` are the two ways in. What they decide
leaves whoever carries it out no choice; what they could not do, they give a reason for.
"""
