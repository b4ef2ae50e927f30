"""Deterioration: the simulated world, people's weeks, the network, its judges and its reports."""
