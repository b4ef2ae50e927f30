"""Which version answers: the BentoML model store, and the catalog of versions in PostgreSQL."""
