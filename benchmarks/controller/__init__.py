"""The cost of MIC: on a real API server with an emulated Azure, and for larger clusters on a synthesised watch stream.

`stream` generates the API server's bytes; `reading_cost` sends them through MIC's informers and view in a process.
`cloud` starts the real API server, Azure's emulators and the real `python -m mic`; `cases` has the measurements.
`run` runs all of them and writes a results file; `table` generates the documentation's table from it.
"""
