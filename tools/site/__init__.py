"""The documentation site of `make site`: mkdocs.yml with a hook that adds the pages of the repository outside docs/."""
