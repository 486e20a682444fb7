"""Give a trained base its model card, and forget how its training text was read.

python recipe/publish.py MODEL
"""

import json
import sys
from pathlib import Path

from textgen.storage.filesystem import replace_in_folder

CARD = Path(__file__).parent / "card.md"


def main() -> None:
    folder = Path(sys.argv[1])
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    replace_in_folder(folder, "config.json", (json.dumps({**config, "reading": {}}, indent=2) + "\n").encode())
    replace_in_folder(folder, "README.md", CARD.read_bytes())
    print(f"{folder}: {sum(path.stat().st_size for path in folder.iterdir()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
