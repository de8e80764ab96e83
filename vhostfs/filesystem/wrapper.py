"""The base of file systems that stand before another one and change some of what it does."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping

from vhostfs.filesystem.commands import Command
from vhostfs.filesystem.interface import Filesystem, MaybeAwaitable, Session
from vhostfs.filesystem.operations import OPERATIONS, implements


async def settled[Result](answer: MaybeAwaitable[Result]) -> Result:
    """Return what a method answered that may have been `def` or `async def`."""
    if inspect.isawaitable(answer):
        return await answer
    return answer


def then[Answer, Result](
    answer: MaybeAwaitable[Answer], finish: Callable[[Answer], Result]
) -> MaybeAwaitable[Result]:
    """Return what `finish` makes of an answer: at once, or to be awaited where the answer is.

    `answer` is what a method of the inner file system returned, and `finish` a plain function of what that
    leads to. An override that uses this is `def`, and as quick as the inner one's.
    """
    if inspect.isawaitable(answer):
        return _then(answer, finish)
    return finish(answer)


async def _then[Answer, Result](answer: Awaitable[Answer], finish: Callable[[Answer], Result]) -> Result:
    return finish(await answer)


class Wrapper[H](Filesystem[H]):
    """A file system that passes everything on to another, except what a subclass overrides.

    What the subclass does not override is the inner one's own method, so passing it on costs nothing; what it
    overrides and the inner one does not answer stays unanswered (ENOSYS). An override calls `self.inner`,
    whose methods may be `def` or `async def`: `await settled(self.inner.read(...))` does for both.
    """

    def __init__(self, inner: Filesystem[H]) -> None:
        """Stand before `inner`, with its options."""
        self.inner = inner
        self.options = inner.options
        for operation in (*OPERATIONS, "forget"):
            overridden = getattr(type(self), operation) is not getattr(Filesystem, operation)
            if not overridden or (operation != "forget" and not implements(inner, operation)):
                setattr(self, operation, getattr(inner, operation))

    def init(self, session: Session) -> MaybeAwaitable[None]:
        """Begin the inner one."""
        return self.inner.init(session)

    def destroy(self) -> MaybeAwaitable[None]:
        """End the inner one."""
        return self.inner.destroy()

    def close(self) -> None:
        """Let go of what the inner one holds."""
        self.inner.close()

    def commands(self) -> Mapping[str, Command]:
        """Return the inner one's."""
        return self.inner.commands()
