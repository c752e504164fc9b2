"""The demo program, `podidentity-demo`: uses a pod's identity in four ways and prints a line for each.

It stands for an application: of this project it imports nothing, and asks the same address that any application asks.
`settings` reads the command line, `asking` speaks HTTP, `advice` says what to do about an answer, `steps` are the four
ways, `rounds` repeats them, `cli` is the program.
"""
