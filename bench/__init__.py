"""What the service costs: throughput, delay and memory, each measured against something in the same run.

`python -m bench` runs everything, `python -m bench drain` one of them. How to read the numbers: docs/performance.md.
"""
