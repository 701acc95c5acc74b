"""What metrics for Prometheus cost a training run."""
