"""A token for the layers that ask for another one when it is refused."""


class Fixed:
    """A token that never changes."""

    def has_changed(self) -> bool:
        """There is no other."""
        return False

    async def renew(self) -> bool:
        """There will be no other."""
        return False
