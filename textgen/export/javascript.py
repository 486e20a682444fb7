"""A model as a JavaScript module: `textgen.js`, its types, and the model beside it."""

from __future__ import annotations

import json

from textgen.export.bundle import Bundle
from textgen.export.html import PAGE, code

README = """# {name}

A model trained with textgen, to run in a browser or in node:

```js
import {{ load }} from "./textgen.js";

const model = await load("model.json");
{example}
```
"""
EXAMPLES = {
    "write": 'console.log(model.generate("Once", { seed: 1, max_new_tokens: 100 }));',
    "labels": 'console.log(model.classify("a fine day"));',
    "series": "console.log(model.forecast());",
}


def javascript(bundle: Bundle) -> dict[str, bytes]:
    """The files of the module, by name."""
    description = bundle.description
    use = next((name for name in EXAMPLES if name in description.get("facts", {})), "write")
    readme = README.format(name=description["name"], example=EXAMPLES[use])
    return {
        "textgen.js": code().encode(),
        "textgen.d.ts": (PAGE / "textgen.d.ts").read_bytes(),
        "package.json": b'{"type": "module"}\n',
        "model.json": json.dumps(description, allow_nan=False).encode(),
        "model.bin": bundle.weights,
        "README.md": readme.encode(),
    }
