"""One prediction from start to end: admit, choose, look up, run, record, answer."""
