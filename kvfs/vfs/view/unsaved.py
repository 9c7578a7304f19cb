"""Open files as far as the journal does not know of them yet: names that were made, attributes that changed."""

from kvfs.core.generation import Generation
from kvfs.core.model import Key, KeyRef, NamespaceId
from kvfs.vfs.view.types import Creating


class Unsaved:
    """Files that were created and are not in the journal. `generation` counts changes that show."""

    def __init__(self) -> None:
        self.generation = Generation()
        self.touched = self.generation.bump  # note a change of an open file that shows in its attributes
        self.creating: dict[KeyRef, Creating] = {}

    def created(self, namespace: NamespaceId, key: Key, file: Creating) -> None:
        """Note that a file exists from its creation on."""
        self.generation.bump()
        self.creating[namespace, key] = file

    def recorded(self, namespace: NamespaceId, key: Key) -> None:
        """Note that from now on the journal says that the file exists, or it is gone."""
        self.generation.bump()
        self.creating.pop((namespace, key), None)

    def has(self, namespace: NamespaceId, key: Key) -> bool:
        """Return whether a file was created that is not in the journal yet."""
        return (namespace, key) in self.creating

    def below(self, namespace: NamespaceId, prefix: str) -> list[Key]:
        """Return keys of files that were created and are not in the journal yet."""
        return [key for ns, key in self.creating if ns == namespace and key.startswith(prefix)]
