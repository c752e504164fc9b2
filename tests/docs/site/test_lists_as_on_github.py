"""The site shows lists as GitHub does."""

import pytest

from tools.site.lists import widened


@pytest.mark.parametrize(
    ("github", "python_markdown"),
    [
        ("* a\n  more\n  * b\n* c", "* a\n    more\n    * b\n* c"),
        ("1. a\n\n   para\n2. b", "1. a\n\n    para\n\n2. b"),
        ("10. a\n\n    para", "10. a\n\n    para"),
        ("1. a\n   * b\n     * c\n2. d", "1. a\n    * b\n        * c\n2. d"),
        (
            "1. a\n\n   ```\n   x\n     y\n\n   z\n   ```\n2. b",
            "1. a\n\n    ```\n    x\n      y\n\n    z\n    ```\n2. b",
        ),
        ("text\n* a", "text\n\n* a"),
        ("* a\n\ntext\n  more", "* a\n\ntext\n  more"),
    ],
)
def test_the_content_of_an_item_is_indented_by_four_columns(github: str, python_markdown: str) -> None:
    assert widened(github) == python_markdown


@pytest.mark.parametrize(
    "text", ["```\n* a\n  * b\n\n1. c\n```", "| a |\n| --- |\n| * b |", "*a* b\n**c** d", "a\n    b"]
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert widened(text) == text
