"""Parses pages of HTML strictly, as a browser would, and prints what each holds: headings, pictures, text and what it asks for."""

import json
import sys

import html5lib

out = []
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        # Raises at the first mistake.
        document = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(file)
    asked = [
        value
        for element in document.iter()
        for name, value in element.attrib.items()
        if name in ("src", "href", "srcset", "data", "action")
    ]
    pictures = [element for element in document.iter() if element.tag.endswith("svg")]
    out.append(
        {
            "headings": [" ".join(element.itertext()) for element in document.iter() if element.tag in ("h1", "h2", "h3")],
            "cells": [" ".join(element.itertext()) for element in document.iter() if element.tag in ("td", "strong")],
            "texts": [" ".join(element.itertext()) for element in document.iter() if element.get("class") == "text"],
            "pictures": [sum(1 for part in picture.iter() if part.tag.endswith("path")) for picture in pictures],
            "scripts": sum(1 for element in document.iter() if str(element.tag).endswith("script")),
            "asked": asked,
        }
    )
print(json.dumps(out))
