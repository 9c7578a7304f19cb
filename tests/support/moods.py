"""The mount that meets an API in one of its moods, and files there that it has never seen."""

from pathlib import Path

from support.mounted import QUICK, Api, Mounted

OPTIONS = (*QUICK, "--timeout=6", "--write-back=0.2")


def filled(mount: Mounted, api: Api, count: int) -> Path:
    """Return a namespace `ns` of files whose content is their number, made by another client."""
    namespace = str(api.result("POST", "", json={"title": "ns"})["id"])
    api.bulk_put(namespace, [{"key": f"k{number:02}", "value": f"{number}"} for number in range(count)])
    mount.kvfs("refresh", str(mount.path))
    return mount.path / "ns"
