"""Writes the last full run's figures into a page of the documentation."""

import json
from pathlib import Path
from typing import Any

from benchmarks.report import RESULTS, ROOT, figure

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def write(file: Path) -> int:
    """Replace what is between the page's two marks; return the exit code."""
    runs = sorted(RESULTS.glob("*-full.json"))
    if not runs:
        print("There is no full run yet: python -m benchmarks")
        return 1
    text = file.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        print(f"{file} must have the lines {BEGIN} and {END}.")
        return 1
    figures = "\n".join(lines(json.loads(runs[-1].read_text())))
    file.write_text(f"{before}{BEGIN}\n{figures}\n{END}{after}")
    print(f"{runs[-1].relative_to(ROOT)} is now in {file}.")
    return 0


def lines(run: dict[str, Any]) -> list[str]:
    """Return a run as Markdown."""
    machine, versions = run["machine"], {**run["versions"], **run["servers"]}
    made = [
        f"Run of {run['date'][:10]}, {run['commit']}: {machine['system']}, {machine['processor']}, "
        f"{machine['cores']} cores, load {machine['load']:.1f} at the start.",
        f"{', '.join(f'{name} {number}' for name, number in versions.items())}.",
        "",
        "### Targets",
        "",
    ]
    rows = [
        [
            target["what"],
            f"{figure(target['value'])}{target['unit']}",
            target["target"],
            "met" if target["met"] else "**missed**",
        ]
        for target in run["targets"]
    ]
    made += table(["measure", "measured", "target", ""], rows)
    for name, part in run["measures"].items():
        made += ["", f"### {name}", "", f"{part['title'].capitalize()}."]
        for each in part.get("tables", ()):
            made.append("")
            made += [each["note"]] if "note" in each else table(each["heads"], each["rows"])
        if part.get("commands"):
            made += ["", "Commands:", ""]
            made += [f"- {who}: `{command}`" for who, command in part["commands"].items()]
    if run["left_out"]:
        made += ["", "### Left out", ""]
        made += [f"- {each['what']}: {' '.join(each['why'].split())}" for each in run["left_out"]]
    return made


def table(heads: list[str], rows: list[list[str]]) -> list[str]:
    rules = ["---", *["---:"] * (len(heads) - 1)]
    return [f"| {' | '.join(row)} |" for row in (heads, rules, *rows)]
