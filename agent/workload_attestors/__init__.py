"""Workload attestors: each tells what it knows of a process on this machine, as selectors."""
