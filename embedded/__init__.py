"""A private PostgreSQL and Valkey for a laptop and for the tests.

Never for patients' data: see docs/settings.md for the real ones.
"""
