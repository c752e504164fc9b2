"""The version of all programs, in SemVer form. docs/releasing.md lists the places that repeat it."""

VERSION = "1.0.0-rc.1"
