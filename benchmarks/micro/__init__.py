"""What single functions of the data plane cost, beside the oracle and httptools on the same bytes.

`python -m benchmarks.micro` prints a table. `loops` is compiled on demand and calls the functions as the lane does,
from C; `yardsticks` are the others; `measure` takes the times.
"""
