"""What a notebook tells: findings and tables, as plain text and as HTML of this class."""
from __future__ import annotations

TOLD = "tta-told"


def told(output) -> str:
    """The plain text of an output of a notebook's cell, printed or told; "" for a picture."""
    if output.get("output_type") == "stream":
        return output["text"] if output.get("name", "stdout") == "stdout" else ""
    data = output.get("data", {})
    return data["text/plain"] + "\n" if TOLD in "".join(data.get("text/html", "")) else ""
