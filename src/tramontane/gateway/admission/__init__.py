"""Admission: limits and budgets, exact on any number of gateways.

`gate` is what an exchange calls. `held` is what this gateway may spend of each limit, `leases`
asks the control plane for more and gives back what stands unused, `waiting` is the queue of those
for whom it asks, `ticket` what an admitted request holds. `local` stands for the control plane
where there is none.
"""
