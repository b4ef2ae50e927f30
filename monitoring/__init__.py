"""What the system does, in figures: statistics, performance over time, metrics for Prometheus."""
