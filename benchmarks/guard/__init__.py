"""What a request costs, counted and not timed: instructions, allocations, system calls, against a committed baseline.

`batches` is the process that is counted, `marks` and `steady` are compiled into it, `counting` runs it, `callgrind`
reads what valgrind wrote, `baseline` compares. `make test` checks; `python -m benchmarks.guard write` renews.
"""
