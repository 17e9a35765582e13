"""The picture of the packages in architecture.md, made from the imports: ``python
docs/packages.py`` writes it anew. Arrows are imports, without those that follow from others."""
import ast
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
START = "```mermaid\n"
END = "```\n"


def floors() -> list[list[str]]:
    """The floors as the linter holds them, top first."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    return [[name.strip() for name in floor.split("|")] for floor in layers]


def imports() -> set[tuple[str, str]]:
    """(package, package that it imports), also where the import stands inside a function."""
    found = set()
    for path in (ROOT / "tta_lab").rglob("*.py"):
        parts = path.relative_to(ROOT / "tta_lab").with_suffix("").parts
        here = [p for p in parts if p != "__init__"]
        package = here[:-1] if parts[-1] != "__init__" else here
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom):
                continue
            module = node.module.split(".") if node.module else []
            if node.level:
                base = package[:len(package) - node.level + 1] + module
            elif module[0] == "tta_lab":
                base = module[1:]
            else:
                continue
            names = [base[0]] if base else [alias.name for alias in node.names]
            found |= {(here[0], name) for name in names if here and name != here[0]}
    rooms = {name for floor in floors() for name in floor}
    return {(a, b) for a, b in found if a in rooms and b in rooms}


def reduced(edges: set) -> set:
    """Without the edges that a longer way replaces."""
    def reach(start, without):
        seen = set()
        waiting = [start]
        while waiting:
            a = waiting.pop()
            fresh = {y for x, y in edges if x == a and (x, y) != without} - seen
            seen |= fresh
            waiting += fresh
        return seen

    return {(a, b) for a, b in edges if b not in reach(a, (a, b))}


def picture() -> str:
    """The mermaid text."""
    lines = ["flowchart TD"]
    for number, floor in enumerate(floors()):
        shown = "; ".join(name for name in floor)
        lines.append(f"    subgraph floor{number}[\" \"]\n        {shown}\n    end")
    lines += [f"    {a} --> {b}" for a, b in sorted(reduced(imports()))]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    start = text.index(START) + len(START)
    PAGE.write_text(text[:start] + picture() + text[text.index(END, start):], encoding="utf-8")
