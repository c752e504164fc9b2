"""`podidctl doctor`: what is wrong with the whole installation, a line for each check, and what to do about it.

`gather` reads what the API server says (`federation`, what federated identities need of it), `node` what this machine
says where it is a node; the checks themselves are functions from those values (`state`) to findings (`shapes`), in
files by their subject: `kinds`, `objects`, `assignments`, `federated`, `programs`, `leaders`, `rights`, `server`.
`exempt` asks NMI whom it leaves to IMDS. `report` puts them together, `command` is the way in and out. Nothing is
changed.
"""
