"""How the server stands in its process: who supervises it, and what one connection may cost. No HTTP routes here."""
