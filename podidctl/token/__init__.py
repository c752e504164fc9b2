"""`podidctl token`: which identity a pod would get a token of, and for whom, or what NMI would refuse it with.

`foretold` decides, by NMI's own functions; `command` is the way in and the way out. No token is fetched, by nobody.
"""
