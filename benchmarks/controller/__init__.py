"""What MIC costs: on a real API server with an emulated Azure, and beyond that on a synthesised watch stream.

`stream` makes the API server's bytes and `feeding` puts them through MIC's informers and view in a process of its own.
`cloud` starts the real API server, Azure's emulators and the real `python -m mic`; `cases` are what is measured on
them. `run` does all of it and writes a results file, `table` makes the documentation's table from one.
"""
