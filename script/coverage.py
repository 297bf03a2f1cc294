"""Sums line coverage by room from llvm-cov's JSON on standard input, and fails below what is promised."""

import json
import re
import sys

# room, percent at least, its files; a file belongs to the first that matches
ROOMS = [
    ("quota", 85, r"/actors/src/quota[/.]"),
    ("pipeline", 75, r"/actors/src/pipeline[/.]"),
    ("session", 85, r"/actors/src/session[/.]"),
    ("authentication", 85, r"/src/(http/(bearer|client_address|extract|limits)|ws/(handshake|ticket))[/.]"),
    (
        "identity",
        85,
        r"/src/http/(api_keys|auth|security_log|sessions|users)[/.]"
        r"|/src/gateways/(log_sms|platform_words|sms|tencent|wechat_login)[/.]"
        r"|/actors/src/(limits|sealer|upkeep/erasure|records/(api_keys|security_log))[/.]",
    ),
    ("the rest of actors/", 80, r"/actors/src/"),
]

lines = {room: [0, 0] for room, _, _ in ROOMS}
for file in json.load(sys.stdin)["data"][0]["files"]:
    path = file["filename"]
    room = next((room for room, _, files in ROOMS if re.search(files, path)), None)
    if room is None or path.split("/")[-1].startswith("tests") or "/tests/" in path:
        continue
    lines[room][0] += file["summary"]["lines"]["covered"]
    lines[room][1] += file["summary"]["lines"]["count"]
    if "--files" in sys.argv:
        print(f"{file['summary']['lines']['percent']:5.1f} % of {file['summary']['lines']['count']:4} {path}")

missed = False
for room, least, _ in ROOMS:
    covered, count = lines[room]
    percent = 100 * covered / max(count, 1)
    missed |= percent < least
    print(f"{room}: {percent:.1f} % of {count} lines (at least {least} %)")
sys.exit(missed)
