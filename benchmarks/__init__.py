"""Side-by-side measurements, each a command. On shared machines only the ratios mean anything."""
