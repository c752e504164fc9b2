"""The cost of single functions of the data plane, compared with the oracle and httptools on the same bytes.

`python -m benchmarks.micro` prints a table. `loops` is compiled on demand and calls the functions from C, as the lane
does; `comparisons` has the functions for comparison; `measure` measures the times.
"""
