"""What happened, provably: one durable record of every prediction before its answer leaves."""
