"""Benchmarks of pruned models and of students."""
