"""The language of the domain: entities, assertion, vitals, wording. Pure: no I/O, nothing of ours but errors."""
