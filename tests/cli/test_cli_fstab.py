"""Options as mount(8) writes them become options of `kvfs mount`; secrets never do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvfs.cli.fstab import IGNORED, expanded
from kvfs.core.errors import UserError
from kvfs.settings import MOUNT_FLAGS

OPTIONS = {
    "cache-ttl": False,
    "read-only": True,
    "local-names": False,
    "token-file": False,
    "history": False,
}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("defaults,_netdev,nofail,x-systemd.automount,x-systemd.requires=a.service,comment=hello", []),
        ("cache_ttl=15m", ["--cache-ttl=15m"]),
        ("cache-ttl=15m,,ro", ["--cache-ttl=15m", "--read-only"]),
        ('cache-ttl=15m,"",ro', ["--cache-ttl=15m", "--read-only"]),
        ("read_only", ["--read-only"]),
        ("read_only=false", []),
        ('local_names="*.a, *.b",rw', ["--local-names=*.a, *.b"]),
        ('history="1d,200M",ro', ["--history=1d,200M", "--read-only"]),
        ("history=1d,200M,ro", ["--history=1d,200M", "--read-only"]),
        ("history=1d,200M", ["--history=1d,200M"]),
        ("history=1G,12h,cache_ttl=1", ["--history=1G,12h", "--cache-ttl=1"]),
        ("history=0,ro", ["--history=0", "--read-only"]),
        ("noexec,nosuid,nodev,cache_ttl=1", ["--cache-ttl=1", "--mount-flags=noexec nosuid nodev"]),
        ("token_file=/etc/kvfs/token", ["--token-file=/etc/kvfs/token"]),
    ],
)
def test_each_word_is_the_option_of_that_name(text, words):
    """Each word becomes the option of that name; words for systemd and the kernel's defaults are passed over.

    Flags go to the kernel.
    """
    assert expanded(text, OPTIONS).words == words


def test_variables_go_to_the_environment():
    """Variables in the options, written as for rclone, go to the environment."""
    assert expanded("env.CLOUDFLARE_ACCOUNT_ID=abc", OPTIONS).environ == {"CLOUDFLARE_ACCOUNT_ID": "abc"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cache_tl=1", "no such option; did you mean cache-ttl?"),
        ("cache_ttl", "it needs a value: cache_ttl="),
        ("read_only=maybe", "it takes no value, not 'maybe'"),
        ("env.CLOUDFLARE_API_TOKEN=secret", "a secret is never an option"),
        ("env.CLOUDFLARE_API_KEY=secret", "a secret is never an option"),
        ('local_names="a,b', "a double quote is not closed"),
    ],
)
def test_nonsense_is_refused_by_name(text, message):
    """A wrong option is refused with its name and the way out, and no secret is repeated."""
    with pytest.raises(UserError) as refused:
        expanded(text, OPTIONS)
    assert message in str(refused.value)
    assert "=secret" not in str(refused.value)


def test_sloppy_drops_what_is_unknown():
    """`mount -s` drops options that are unknown."""
    assert expanded("frobnicate=1,ro", OPTIONS, sloppy=True).words == ["--read-only"]


@given(st.lists(st.sampled_from([*sorted(IGNORED), *sorted(MOUNT_FLAGS), "ro", "x-a=b", "cache_ttl=3"])))
def test_the_order_of_words_does_not_matter(words):
    """The options mean the same in any order."""
    values = expanded(",".join(words), OPTIONS).words
    backwards = expanded(",".join(reversed(words)), OPTIONS).words
    assert sorted(map(sorted, values)) == sorted(map(sorted, backwards))
    assert values.count("--read-only") == words.count("ro")
    assert values.count("--cache-ttl=3") == words.count("cache_ttl=3")
