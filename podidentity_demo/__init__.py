"""The demo program, `podidentity-demo`: uses a pod's identity in four ways and prints a line for each.

It represents an application: it imports nothing of this project and sends its requests to the address that every
application uses.
"""
