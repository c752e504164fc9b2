"""The cost of a request in instructions, allocations and system calls, compared with a committed baseline.

`batches` is the process under measurement; `marks` and `steady` are compiled for it. `counting` runs it, `callgrind`
reads valgrind's output, `baseline` compares. `make test-tools` checks; `python -m benchmarks.guard write` updates the
baseline.
"""
