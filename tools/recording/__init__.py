"""The recording of the demo in the documentation: real output of `podidctl sandbox demo`, as an animated SVG."""
