"""Sums line coverage by room from llvm-cov's JSON on standard input, and fails below what is promised."""

import json
import sys

LEAST = {"quota": 85, "pipeline": 75, "the rest of actors/": 80}

lines = {room: [0, 0] for room in LEAST}
for file in json.load(sys.stdin)["data"][0]["files"]:
    _, found, path = file["filename"].partition("/actors/src/")
    if not found or path.split("/")[-1].startswith("tests") or "/tests/" in path:
        continue
    folder = path.split("/")[0].removesuffix(".rs")
    room = lines[folder if folder in LEAST else "the rest of actors/"]
    room[0] += file["summary"]["lines"]["covered"]
    room[1] += file["summary"]["lines"]["count"]

missed = False
for room, (covered, count) in lines.items():
    percent = 100 * covered / max(count, 1)
    missed |= percent < LEAST[room]
    print(f"{room}: {percent:.1f} % of {count} lines (at least {LEAST[room]} %)")
sys.exit(missed)
