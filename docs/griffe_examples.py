"""Lets mkdocstrings show a docstring's section `Example:`, which pytest runs, as the code that it is."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object


class ExampleSections(Extension):
    """Renames the section: only `Examples:` is known to the parser, and `::` is no Markdown."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None:
            text = re.sub(r"^Example::$", "For example:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
