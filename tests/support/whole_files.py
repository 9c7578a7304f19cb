"""Whole files at once, over the calls that `FakeKernel` and `RealKernel` have in common."""

import os


class WholeFiles:
    """`cat path` and `printf … > path` of a kernel with open, pread, pwrite and close."""

    async def read(self, path: str) -> bytes:
        """The whole content of a file."""
        file = await self.open(path)
        try:
            return await self.pread(file, 0, 1 << 30)
        finally:
            await self.close(file)

    async def write(self, path: str, data: bytes, flags: int = os.O_CREAT | os.O_TRUNC) -> None:
        """Write over the beginning of a file; with the usual flags it is all of it."""
        file = await self.open(path, flags | os.O_WRONLY)
        try:
            if data:
                await self.pwrite(file, 0, data)
        finally:
            await self.close(file)
