"""`mount -t kvfs SOURCE DIR -o a,b=c`: the words with which mount(8) calls a helper, for `kvfs mount`.

mount(8) says: mount.TYPE SPEC DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE.SUBTYPE]. It may be called without
HOME and PATH, by systemd for instance.
"""

import os
from typing import Final

import click

from kvfs.cli.fstab import expanded
from kvfs.cli.options import flag
from kvfs.core.errors import UserError

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@click.command(
    "mount-helper",
    hidden=True,
    context_settings={"allow_interspersed_args": True, "ignore_unknown_options": False},
)
@click.argument("source")
@click.argument("directory", metavar="DIR")
@click.option("-o", "texts", multiple=True, help="Options as in fstab.")
@flag("-f", "fake", "Check the words, and mount nothing.")
@flag("-s", "sloppy", "Pass over unknown options.")
@click.option("-n", is_flag=True, expose_value=False, help="For mount(8).")
@click.option("-v", is_flag=True, expose_value=False, help="For mount(8).")
@click.option("-w", is_flag=True, expose_value=False, help="For mount(8).")
@flag("-r", "read_only", "Read only.")
@click.option("-N", "namespace", help="For mount(8).")
@click.option("-t", "kind", help="For mount(8).")
def mount_helper(
    source: str,
    directory: str,
    texts: tuple[str, ...],
    fake: bool,
    sloppy: bool,
    read_only: bool,
    namespace: str | None,
    kind: str | None,
) -> int:
    """Mount SOURCE on DIR with the options of mount(8)."""
    from kvfs.cli.mount import mount, option_names

    if namespace is not None:
        raise UserError("-N: kvfs mounts in its own namespace: use nsenter --mount=… kvfs mount")
    found = expanded(",".join(texts), option_names(), sloppy=sloppy)
    os.environ.setdefault("PATH", DEFAULT_PATH)
    os.environ.update(found.environ)
    words = [*found.words, *(["--read-only"] if read_only else []), "--", source, directory]
    if fake:
        mount.make_context("kvfs mount", words)
        return 0
    result = mount.main(args=words, prog_name="kvfs mount", standalone_mode=False)
    return result if isinstance(result, int) else 0
