"""Benchmarks: psync beside rsync and ssh, in one run on one machine. ``make bench``."""
