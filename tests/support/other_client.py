"""The command `api` of the pages' examples: another client of the same namespace, by the REST API alone.

api list | get KEY | put KEY LINE [METADATA [SECONDS]] | delete KEY | asked COMMAND…
"""

import json
import os
import re
import subprocess
import sys
from urllib.parse import quote
from urllib.request import Request, urlopen

URL, ROOT = os.environ["KVFS_TEST_URL"], os.environ["KVFS_TEST_ROOT"]
HEADERS = {"authorization": f"Bearer {os.environ['CLOUDFLARE_API_TOKEN']}"}
OURS = {"metrics", "get_faults", "put_faults", "delete_faults"}


def call(method: str, url: str, body: object = None) -> bytes:
    """Send a request; return its answer."""
    data = json.dumps(body).encode() if body is not None else None
    headers = HEADERS | ({"content-type": "application/json"} if data else {})
    with urlopen(Request(url, data, headers, method=method), timeout=20) as answer:
        return bytes(answer.read())


def requests() -> dict[str, int]:
    """Return requests by operation."""
    lines = call("GET", f"{ROOT}/metrics").decode().splitlines()
    found: dict[str, int] = {}
    for line in lines:
        counted = re.match(r'kvfs_requests_total{operation="(\w+)"[^}]*} (\S+)', line)
        if counted and counted[1] not in OURS:
            found[counted[1]] = found.get(counted[1], 0) + int(float(counted[2]))
    return found


def asked(command: list[str]) -> None:
    """Run a command, then print what it cost at the server."""
    before = requests()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    print(done.stdout, end="" if done.stdout.endswith("\n") or not done.stdout else "\n")
    after = requests()
    grown = {name: number - before.get(name, 0) for name, number in sorted(after.items())}
    print(", ".join(f"{number} {name}" for name, number in grown.items() if number) or "no request")


def main(command: str, *words: str) -> None:
    """Run one command."""
    if command == "asked":
        asked(list(words))
    elif command == "list":
        for key in json.loads(call("GET", f"{URL}/keys"))["result"]:
            shown = [json.dumps(key["metadata"])] if "metadata" in key else []
            print(key["name"], *shown, *(["expires"] if "expiration" in key else []))
    elif command == "get":
        sys.stdout.buffer.write(call("GET", f"{URL}/values/{quote(words[0], safe='')}"))
    elif command == "put":
        pair: dict[str, object] = {"key": words[0], "value": f"{words[1]}\n"}
        if len(words) > 2 and words[2]:
            pair["metadata"] = json.loads(words[2])
        if len(words) > 3:
            pair["expiration_ttl"] = int(words[3])
        call("PUT", f"{URL}/bulk", [pair])
    elif command == "delete":
        call("DELETE", f"{URL}/values/{quote(words[0], safe='')}")
    else:
        sys.exit(f"api knows no {command!r}")


if __name__ == "__main__":
    main(*sys.argv[1:])
