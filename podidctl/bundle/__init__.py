"""`podidctl bundle`: an archive for support, without credentials, identifiers and names."""
